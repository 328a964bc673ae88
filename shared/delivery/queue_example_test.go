package delivery_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
)

// consume takes messages from a queue. A message whose work failed comes again after the queue's visibility timeout.
func consume(ctx context.Context, client *sqs.Client, queueURL string, work func(id, state string, value json.RawMessage) error) error {
	out, err := client.ReceiveMessage(ctx, &sqs.ReceiveMessageInput{
		QueueUrl: &queueURL, MaxNumberOfMessages: 10, WaitTimeSeconds: 20, MessageAttributeNames: []string{"type", "tenant"},
	})
	if err != nil {
		return err
	}
	for _, m := range out.Messages {
		var message struct {
			ID   string `json:"id"` // the same each time that the message comes: do the work once for each id
			Data struct {
				PromiseID    string          `json:"promiseId"`
				State        string          `json:"state"`
				Value        json.RawMessage `json:"value"`
				ValueOmitted bool            `json:"valueOmitted"` // read it with get-promise
			} `json:"data"`
		}
		if err := json.Unmarshal([]byte(aws.ToString(m.Body)), &message); err != nil {
			return err
		}
		if err := work(message.ID, message.Data.State, message.Data.Value); err != nil {
			return err
		}
		if _, err := client.DeleteMessage(ctx, &sqs.DeleteMessageInput{QueueUrl: &queueURL, ReceiptHandle: m.ReceiptHandle}); err != nil {
			return err
		}
	}
	return nil
}

// A consumer of a queue deletes a message after its work.
func Example_queue() {
	queue := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { // a stand-in for SQS with one message
		call := strings.TrimPrefix(r.Header.Get("X-Amz-Target"), "AmazonSQS.")
		fmt.Println(call)
		w.Header().Set("Content-Type", "application/x-amz-json-1.0")
		if call == "ReceiveMessage" {
			body, _ := json.Marshal(`{"id":"8d1f","type":"promise.resolved","data":{"promiseId":"3f0c","state":"resolved","value":{"paid":true}}}`) //nolint:errchkjson // a string
			fmt.Fprintf(w, `{"Messages":[{"MessageId":"1","ReceiptHandle":"r","Body":%s}]}`, body)
			return
		}
		fmt.Fprint(w, `{}`)
	}))
	defer queue.Close()
	client := sqs.New(sqs.Options{
		Region: "us-east-1", BaseEndpoint: &queue.URL, Credentials: credentials.NewStaticCredentialsProvider("local", "local", ""),
		DisableMessageChecksumValidation: true, // the stand-in sends none
	})
	err := consume(context.Background(), client, queue.URL+"/123456789012/orders", func(id, state string, value json.RawMessage) error {
		fmt.Println("work:", id, state, string(value))
		return nil
	})
	fmt.Println(err)
	// Output:
	// ReceiveMessage
	// work: 8d1f resolved {"paid":true}
	// DeleteMessage
	// <nil>
}
