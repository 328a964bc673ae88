// Package invoke gives batches of deliveries to the function send-deliveries.
package invoke

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/smithy-go"

	"github.com/flovyn/promises/shared/delivery"
)

// connections is the number of idle connections to Lambda that a Sender keeps.
const connections = 32

// A Sender invokes the function send-deliveries. It is safe for concurrent use.
type Sender struct {
	function string
	client   *lambda.Client
}

// New returns a Sender for the function of that name or ARN. It calls the region of the
// ARN or, for a name, AWS_REGION, with the credentials in the environment. It reads
// AWS_ENDPOINT_URL_LAMBDA, and no other variable of the SDKs for endpoints.
func New(function string) *Sender {
	options := lambda.Options{
		Region:     os.Getenv("AWS_REGION"),
		HTTPClient: awshttp.NewBuildableClient().WithTransportOptions(func(t *http.Transport) { t.MaxIdleConnsPerHost = connections }),
		Retryer:    aws.NopRetryer{}, // a repeated invoke would send each message twice
		Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
			return aws.Credentials{
				AccessKeyID: os.Getenv("AWS_ACCESS_KEY_ID"), SecretAccessKey: os.Getenv("AWS_SECRET_ACCESS_KEY"),
				SessionToken: os.Getenv("AWS_SESSION_TOKEN"), Source: "environment",
			}, nil
		}),
	}
	if part := strings.Split(function, ":"); part[0] == "arn" && len(part) > 3 {
		options.Region = part[3]
	}
	if endpoint := os.Getenv("AWS_ENDPOINT_URL_LAMBDA"); endpoint != "" {
		options.BaseEndpoint = &endpoint
	}
	return &Sender{function: function, client: lambda.New(options)}
}

// Send implements delivery.BatchSender. It invokes the function once, and returns its
// results. It waits until the function has answered or ctx ends.
//
// If the function has certainly sent nothing, errors.Is(err, delivery.ErrNotSent): Lambda
// could not be reached, or refused the call for a reason that does not lie in the batch,
// such as its limits or a missing right. After every other error the function may have
// sent all, some or none of the batch: it crashed or ran out of time, the connection
// broke, or the batch itself was refused. No error contains a part of the batch.
func (s *Sender) Send(ctx context.Context, batch delivery.Batch) ([]delivery.Result, error) {
	payload, err := json.Marshal(batch)
	if err != nil {
		return nil, errors.New("encode the batch: it is no JSON")
	}
	out, err := s.client.Invoke(ctx, &lambda.InvokeInput{FunctionName: &s.function, Payload: payload})
	switch {
	case err != nil && notSent(err):
		return nil, fmt.Errorf("%w: invoke %s: %w", delivery.ErrNotSent, s.function, err)
	case err != nil:
		return nil, fmt.Errorf("invoke %s: %w", s.function, err)
	case out.FunctionError != nil:
		return nil, fmt.Errorf("invoke %s: it failed with %s", s.function, errorType(out.Payload))
	}
	var results []delivery.Result
	if json.Unmarshal(out.Payload, &results) != nil {
		return nil, fmt.Errorf("invoke %s: its answer is no list of results", s.function)
	}
	return results, nil
}

// badBatch lists the error codes of Lambda that a batch itself can cause. Another batch
// may still be accepted.
var badBatch = map[string]bool{
	"InvalidRequestContentException": true, "RequestTooLargeException": true, "RequestEntityTooLargeException": true,
	"SerializedRequestEntityTooLargeException": true,
}

// notSent reports whether a failed call certainly reached no function.
func notSent(err error) bool {
	if api, ok := errors.AsType[smithy.APIError](err); ok {
		return !badBatch[api.ErrorCode()]
	}
	operation, ok := errors.AsType[*net.OpError](err)
	return ok && operation.Op == "dial" // look-ups of names are a part of it
}

// errorType returns the type of a function's error. Its message stays out of the log,
// because it may quote the batch. The function's own log has it.
func errorType(payload []byte) string {
	var e struct {
		Type string `json:"errorType"`
	}
	if json.Unmarshal(payload, &e) != nil || e.Type == "" {
		return "an error without a type"
	}
	return e.Type[:min(len(e.Type), 100)]
}
