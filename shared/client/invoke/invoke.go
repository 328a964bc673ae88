// Package invoke returns clients that invoke the functions of the service in AWS Lambda
// directly, without HTTP and without an API key. The role of the caller authorizes the
// calls: see "Workflow engines" in functions/README.md. It is a package of its own, so that
// users of the HTTP API do not link the AWS SDK.
package invoke

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/lambda/types"
	"github.com/aws/smithy-go"

	"github.com/flovyn/promises/shared/client"
)

// A Lambda invokes functions. *lambda.Client is one.
type Lambda interface {
	Invoke(context.Context, *lambda.InvokeInput, ...func(*lambda.Options)) (*lambda.InvokeOutput, error)
}

// New returns a client of a tenant that invokes the functions by their names: prefix, such
// as promises-production-, and the name of the function. The local runner takes every
// prefix, and an empty one.
//
// The client repeats calls by itself, and turns the retries of the SDK off. Its errors are
// those of the HTTP API, with the same codes and statuses.
//
// The policy of engines does not allow every function. A call that AWS refuses fails with
// client.CodeForbidden. If wait-promise or wait-events is refused, Await and WaitEvents poll
// with get-promise and list-events.
func New(l Lambda, tenant, prefix string, options ...client.Option) *client.Client {
	return client.NewWithTransport(tenant, transport{lambda: l, prefix: prefix}, options...)
}

type transport struct {
	lambda Lambda
	prefix string
}

// Send implements client.Transport.
func (t transport) Send(ctx context.Context, r client.Request) (client.Answer, error) {
	name := t.prefix + r.Function
	out, err := t.lambda.Invoke(ctx, &lambda.InvokeInput{FunctionName: &name, Payload: r.Payload()}, func(o *lambda.Options) {
		o.Retryer = aws.NopRetryer{}
	})
	switch {
	case err != nil:
		return client.Answer{}, invokeError(name, err)
	case out.FunctionError != nil:
		return client.Answer{}, functionError(name, out.Payload)
	case len(out.Payload) > client.MaxAnswer:
		return client.Answer{}, &client.Error{MaybeApplied: true, Detail: fmt.Sprintf("The answer has more than %d bytes.", client.MaxAnswer)}
	}
	return client.Answer{Body: out.Payload}, nil
}

// functionError returns the error of a function that failed. errorMessage is the problem's
// JSON. A function that crashed or ran out of time reports something else.
func functionError(name string, payload []byte) *client.Error {
	var failed struct{ ErrorType, ErrorMessage string }
	if json.Unmarshal(payload, &failed) == nil {
		var e client.Error
		if json.Unmarshal([]byte(failed.ErrorMessage), &e) == nil {
			return &e
		}
	}
	e := client.Unanswered(504, "The function "+name+" ended without an answer.", nil)
	if failed.ErrorType != "" {
		e.Detail += " Lambda reports " + failed.ErrorType[:min(len(failed.ErrorType), 100)] + "."
	}
	return e
}

// invokeError returns the error of an invocation that Lambda refused, or that did not reach
// it.
func invokeError(name string, err error) *client.Error {
	status := 0
	if response, ok := errors.AsType[interface {
		error
		HTTPStatusCode() int
	}](err); ok {
		status = response.HTTPStatusCode()
	}
	api, refused := errors.AsType[smithy.APIError](err)
	if !refused {
		return client.Unanswered(status, "Lambda could not be reached, or did not answer.", err)
	}
	e := client.Unanswered(status, "Lambda refused to invoke "+name+": "+api.ErrorCode()+".", nil)
	if throttled, ok := errors.AsType[*types.TooManyRequestsException](err); ok {
		seconds, _ := strconv.Atoi(aws.ToString(throttled.RetryAfterSeconds)) // absent: 0
		e.RetryAfter = time.Duration(max(seconds, 0)) * time.Second
	}
	if _, missing := errors.AsType[*types.ResourceNotFoundException](err); missing {
		e.Detail += " Check the prefix, the region and the account."
	}
	return e
}
