package delivery

import (
	"context"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/lambda/types"
	"github.com/aws/aws-sdk-go-v2/service/sfn"
)

// invoke invokes a function asynchronously. The message's body is its event.
func invoke(ctx context.Context, config aws.Config, to Destination, deliveries []Delivery) ([]Result, error) {
	out, err := lambda.NewFromConfig(config).Invoke(ctx, &lambda.InvokeInput{
		FunctionName: &to.Address, InvocationType: types.InvocationTypeEvent, Payload: deliveries[0].Message.Body,
	})
	if err != nil {
		return nil, err
	}
	return []Result{{Outcome: Delivered, Status: int(out.StatusCode)}}, nil
}

// completeTask ends a task of Step Functions.
func completeTask(ctx context.Context, config aws.Config, _ Destination, deliveries []Delivery) ([]Result, error) {
	c := deliveries[0].Completion
	client := sfn.NewFromConfig(config)
	var err error
	if c.Output != nil {
		_, err = client.SendTaskSuccess(ctx, &sfn.SendTaskSuccessInput{TaskToken: &c.Token, Output: aws.String(string(c.Output))})
	} else {
		_, err = client.SendTaskFailure(ctx, &sfn.SendTaskFailureInput{TaskToken: &c.Token, Error: orNil(c.Error), Cause: orNil(c.Cause)})
	}
	return []Result{delivered}, err
}

// completeCallback ends a callback of a durable function.
func completeCallback(ctx context.Context, config aws.Config, _ Destination, deliveries []Delivery) ([]Result, error) {
	c := deliveries[0].Completion
	client := lambda.NewFromConfig(config)
	var err error
	if c.Output != nil {
		_, err = client.SendDurableExecutionCallbackSuccess(ctx, &lambda.SendDurableExecutionCallbackSuccessInput{CallbackId: &c.Token, Result: c.Output})
	} else {
		_, err = client.SendDurableExecutionCallbackFailure(ctx, &lambda.SendDurableExecutionCallbackFailureInput{
			CallbackId: &c.Token, Error: &types.ErrorObject{ErrorType: orNil(c.Error), ErrorMessage: orNil(c.Cause)},
		})
	}
	return []Result{delivered}, err
}

func orNil(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}
