package awssender

import (
	"context"
	"strconv"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/eventbridge"
	eventbridgetypes "github.com/aws/aws-sdk-go-v2/service/eventbridge/types"
	"github.com/aws/aws-sdk-go-v2/service/lambda"
	lambdatypes "github.com/aws/aws-sdk-go-v2/service/lambda/types"
	"github.com/aws/aws-sdk-go-v2/service/sns"
	snstypes "github.com/aws/aws-sdk-go-v2/service/sns/types"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	sqstypes "github.com/aws/aws-sdk-go-v2/service/sqs/types"

	"github.com/flovyn/promises/shared/delivery"
)

// sendToQueue sends messages to an SQS queue. An entry's id is its index.
func sendToQueue(ctx context.Context, config aws.Config, to delivery.Destination, deliveries []delivery.Delivery) ([]delivery.Result, error) {
	in := sqs.SendMessageBatchInput{QueueUrl: &to.Address}
	for i, d := range deliveries {
		entry := sqstypes.SendMessageBatchRequestEntry{
			Id: aws.String(strconv.Itoa(i)), MessageBody: aws.String(string(d.Message.Body)),
			MessageAttributes: map[string]sqstypes.MessageAttributeValue{
				"type":   {DataType: aws.String("String"), StringValue: &d.Message.Type},
				"tenant": {DataType: aws.String("String"), StringValue: &d.Message.Tenant},
			},
		}
		if isFIFO(to) {
			entry.MessageGroupId, entry.MessageDeduplicationId = &d.Message.Group, &d.Message.ID
		}
		in.Entries = append(in.Entries, entry)
	}
	out, err := sqs.NewFromConfig(config).SendMessageBatch(ctx, &in)
	if err != nil {
		return nil, err
	}
	results := make([]delivery.Result, len(deliveries))
	for _, e := range out.Successful {
		setEntry(results, e.Id, delivered)
	}
	for _, e := range out.Failed {
		setEntry(results, e.Id, entryFailed(to, "SendMessageBatch", e.Code))
	}
	return results, nil
}

// publish publishes messages to an SNS topic. An entry's id is its index.
func publish(ctx context.Context, config aws.Config, to delivery.Destination, deliveries []delivery.Delivery) ([]delivery.Result, error) {
	in := sns.PublishBatchInput{TopicArn: &to.Address}
	for i, d := range deliveries {
		entry := snstypes.PublishBatchRequestEntry{
			Id: aws.String(strconv.Itoa(i)), Message: aws.String(string(d.Message.Body)),
			MessageAttributes: map[string]snstypes.MessageAttributeValue{
				"type":   {DataType: aws.String("String"), StringValue: &d.Message.Type},
				"tenant": {DataType: aws.String("String"), StringValue: &d.Message.Tenant},
			},
		}
		if isFIFO(to) {
			entry.MessageGroupId, entry.MessageDeduplicationId = &d.Message.Group, &d.Message.ID
		}
		in.PublishBatchRequestEntries = append(in.PublishBatchRequestEntries, entry)
	}
	out, err := sns.NewFromConfig(config).PublishBatch(ctx, &in)
	if err != nil {
		return nil, err
	}
	results := make([]delivery.Result, len(deliveries))
	for _, e := range out.Successful {
		setEntry(results, e.Id, delivered)
	}
	for _, e := range out.Failed {
		setEntry(results, e.Id, entryFailed(to, "PublishBatch", e.Code))
	}
	return results, nil
}

// setEntry sets the result of the entry with an id. It ignores an id that the call did
// not have.
func setEntry(results []delivery.Result, id *string, r delivery.Result) {
	if i, err := strconv.Atoi(aws.ToString(id)); err == nil && i >= 0 && i < len(results) {
		results[i] = r
	}
}

// putEvents puts events on an EventBridge bus. PutEvents answers with status 200 if
// entries failed. Its answer has an entry for each event, in their order.
func putEvents(ctx context.Context, config aws.Config, to delivery.Destination, deliveries []delivery.Delivery) ([]delivery.Result, error) {
	var in eventbridge.PutEventsInput
	for _, d := range deliveries {
		in.Entries = append(in.Entries, eventbridgetypes.PutEventsRequestEntry{
			EventBusName: &to.Address, Source: aws.String("promises"), DetailType: &d.Message.Type, Detail: aws.String(string(d.Message.Body)),
		})
	}
	out, err := eventbridge.NewFromConfig(config).PutEvents(ctx, &in)
	if err != nil {
		return nil, err
	}
	results := make([]delivery.Result, len(deliveries))
	for i, e := range out.Entries[:min(len(out.Entries), len(results))] {
		switch {
		case e.ErrorCode != nil:
			results[i] = entryFailed(to, "PutEvents", e.ErrorCode)
		case e.EventId != nil:
			results[i] = delivered
		}
	}
	return results, nil
}

// invoke invokes a function asynchronously. The message's body is its event.
func invoke(ctx context.Context, config aws.Config, to delivery.Destination, deliveries []delivery.Delivery) ([]delivery.Result, error) {
	out, err := lambda.NewFromConfig(config).Invoke(ctx, &lambda.InvokeInput{
		FunctionName: &to.Address, InvocationType: lambdatypes.InvocationTypeEvent, Payload: deliveries[0].Message.Body,
	})
	if err != nil {
		return nil, err
	}
	return []delivery.Result{{Outcome: delivery.Delivered, Status: int(out.StatusCode)}}, nil
}
