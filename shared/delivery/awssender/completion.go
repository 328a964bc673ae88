package awssender

import (
	"context"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/lambda/types"
	"github.com/aws/aws-sdk-go-v2/service/sfn"

	"github.com/flovyn/promises/shared/delivery"
)

// completeTask ends a task of Step Functions.
func completeTask(ctx context.Context, config aws.Config, _ delivery.Destination, deliveries []delivery.Delivery) ([]delivery.Result, error) {
	c := deliveries[0].Completion
	client := sfn.NewFromConfig(config)
	var err error
	if c.Output != nil {
		_, err = client.SendTaskSuccess(ctx, &sfn.SendTaskSuccessInput{TaskToken: &c.Token, Output: aws.String(string(c.Output))})
	} else {
		_, err = client.SendTaskFailure(ctx, &sfn.SendTaskFailureInput{TaskToken: &c.Token, Error: orNil(c.Error), Cause: orNil(c.Cause)})
	}
	return []delivery.Result{delivered}, err
}

// completeCallback ends a callback of a durable function. The durable functions' SDK for
// JavaScript shows a failure's data and message, and not its type: the data repeats it.
func completeCallback(ctx context.Context, config aws.Config, _ delivery.Destination, deliveries []delivery.Delivery) ([]delivery.Result, error) {
	c := deliveries[0].Completion
	client := lambda.NewFromConfig(config)
	var err error
	if c.Output != nil {
		_, err = client.SendDurableExecutionCallbackSuccess(ctx, &lambda.SendDurableExecutionCallbackSuccessInput{CallbackId: &c.Token, Result: c.Output})
	} else {
		_, err = client.SendDurableExecutionCallbackFailure(ctx, &lambda.SendDurableExecutionCallbackFailureInput{
			CallbackId: &c.Token, Error: &types.ErrorObject{ErrorType: orNil(c.Error), ErrorData: orNil(c.Error), ErrorMessage: orNil(c.Cause)},
		})
	}
	return []delivery.Result{delivered}, err
}

func orNil(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}
