// Package remote invokes deployed functions from a shell. It links the SDK's search for
// credentials, which a deployed function must not link.
package remote

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/aws/aws-lambda-go/lambda/messages"
	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/lambda"

	awslambda "github.com/aws/aws-lambda-go/lambda"
)

// A remoteFunction is a Handler that calls a function in AWS.
type remoteFunction struct {
	client *lambda.Client
	name   string
}

// Connect returns a Handler for the function of that name or ARN. It
// finds credentials and the region as the AWS CLI does; the region of an ARN comes
// first.
func Connect(ctx context.Context, name string) (awslambda.Handler, error) {
	var options []func(*config.LoadOptions) error
	if arn := strings.Split(name, ":"); arn[0] == "arn" && len(arn) > 3 {
		options = append(options, config.WithRegion(arn[3]))
	}
	conf, err := config.LoadDefaultConfig(ctx, options...)
	if err != nil {
		return nil, err
	}
	if conf.Region == "" {
		return nil, errors.New("no AWS region: set AWS_REGION, or a region in the AWS profile")
	}
	return remoteFunction{name: name, client: lambda.NewFromConfig(conf, func(o *lambda.Options) {
		o.Retryer = aws.NopRetryer{} // a repeated create-key would create a second API key
	})}, nil
}

// Invoke calls the function. It returns a function error as the function itself
// would.
func (f remoteFunction) Invoke(ctx context.Context, payload []byte) ([]byte, error) {
	out, err := f.client.Invoke(ctx, &lambda.InvokeInput{FunctionName: &f.name, Payload: payload})
	if err != nil {
		return nil, fmt.Errorf("invoke %s: %w", f.name, err)
	}
	if out.FunctionError == nil {
		return out.Payload, nil
	}
	var failed messages.InvokeResponse_Error
	if json.Unmarshal(out.Payload, &failed) != nil {
		return nil, fmt.Errorf("invoke %s: %s: %s", f.name, *out.FunctionError, out.Payload)
	}
	return nil, failed
}
