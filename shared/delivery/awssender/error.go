package awssender

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/flovyn/promises/shared/delivery"
)

// delivered is the result of a delivery that a service took.
var delivered = delivery.Result{Outcome: delivery.Delivered, Status: http.StatusOK}

// ended lists the error codes for a task or a callback that has ended.
//
// "The task token has either expired or the task associated with the token has already
// been closed": TaskTimedOut. So InvalidToken is not among them: such a token wakes no
// task, ever.
// https://docs.aws.amazon.com/step-functions/latest/apireference/API_SendTaskSuccess.html
var ended = map[delivery.Kind][]string{
	delivery.StepFunctions:    {"TaskTimedOut", "TaskDoesNotExist"},
	delivery.DurableExecution: {"CallbackTimeoutException", "ResourceNotFoundException"},
}

// refused lists the error codes for a body that the service will never take.
var refused = []string{
	"InvalidOutput", "InvalidRequestContentException", "RequestTooLargeException", "SerializedRequestEntityTooLargeException",
	"BatchRequestTooLong", "BatchRequestTooLongException", "InvalidMessageContents", "MalformedDetail", "UnsupportedMediaTypeException",
}

// throttled lists error codes beside the SDK's own list.
var throttled = []string{
	"Throttled", "KmsThrottled", "KMSThrottling", "KMSThrottlingException", "KmsThrottlingException", "TooManyRequests", "OverLimit",
}

// actions names the IAM action of each operation whose name differs from it.
var actions = map[string]string{
	"SendMessageBatch": "sqs:SendMessage", "PublishBatch": "sns:Publish", "PutEvents": "events:PutEvents",
	"Invoke": "lambda:InvokeFunction", "SendEmail": "ses:SendEmail", "AssumeRole": "sts:AssumeRole",
	"SendTaskSuccess": "states:SendTaskSuccess", "SendTaskFailure": "states:SendTaskFailure",
	"SendDurableExecutionCallbackSuccess": "lambda:SendDurableExecutionCallbackSuccess",
	"SendDurableExecutionCallbackFailure": "lambda:SendDurableExecutionCallbackFailure",
}

// entryFailed returns the result of an entry that a service refused, while it took the
// call.
func entryFailed(to delivery.Destination, operation string, code *string) delivery.Result {
	return resultOfCode(to, operation, aws.ToString(code), http.StatusOK)
}

// resultOf returns the result of a failed call. It uses no text of the service or of the
// request's URL, because they may hold a token.
func resultOf(to delivery.Destination, err error) delivery.Result {
	operation := ""
	for inner := err; ; { // the innermost operation failed: AssumeRole, perhaps
		op, ok := errors.AsType[*smithy.OperationError](inner)
		if !ok {
			break
		}
		operation, inner = op.OperationName, op.Err
	}
	status, retryAfter := 0, time.Duration(0)
	if answer, ok := errors.AsType[*smithyhttp.ResponseError](err); ok && answer.Response != nil {
		status = answer.HTTPStatusCode()
		retryAfter = delivery.ParseRetryAfter(answer.Response.Header.Get("Retry-After"), time.Now())
	}
	r := delivery.Result{Outcome: delivery.Failed, Status: status}
	if api, ok := errors.AsType[smithy.APIError](err); ok {
		r = resultOfCode(to, operation, api.ErrorCode(), status)
	} else {
		r.Error = cutBytes(operation+": "+reasonOf(err)+".", delivery.MaxError)
	}
	r.RetryAfter = retryAfter
	return r
}

// resultOfCode returns the result for an error code of a service.
func resultOfCode(to delivery.Destination, operation, code string, status int) delivery.Result {
	code = strings.TrimPrefix(code, "AWS.SimpleQueueService.")
	r := delivery.Result{Outcome: delivery.Failed, Status: status}
	advice := ""
	_, throttles := retry.DefaultThrottleErrorCodes[code]
	switch {
	case slices.Contains(ended[to.Kind], code):
		r.Outcome, advice = delivery.Gone, "The task or callback has ended, or its token belongs to another account or region."
	case to.Kind == delivery.StepFunctions && code == "InvalidToken":
		r.Outcome = delivery.Refused
		advice = "Step Functions in " + to.Region + " does not know the token: it is damaged, or belongs to another account or region."
	case operation != "AssumeRole" && to.Kind == delivery.StepFunctions && code == "ValidationException",
		slices.Contains(refused, code), status == http.StatusRequestEntityTooLarge:
		r.Outcome, advice = delivery.Refused, "The service will never take this body: this is a fault of promises."
	case throttles, slices.Contains(throttled, code), status == http.StatusTooManyRequests:
		r.Outcome, advice = delivery.Throttled, "The service limits this sender."
	default:
		advice = adviceFor(to, operation, code)
	}
	r.Error = cutBytes(operation+" failed with "+printable(code)+". "+advice, delivery.MaxError)
	return r
}

// adviceFor says what an operator can do about an error code.
func adviceFor(to delivery.Destination, operation, code string) string {
	has := func(parts ...string) bool {
		return slices.ContainsFunc(parts, func(part string) bool { return strings.Contains(code, part) })
	}
	switch {
	case has("AccessDenied", "AuthorizationError", "NotAuthorized"):
		who := "the sender's role"
		if to.RoleARN != "" && operation != "AssumeRole" {
			who = to.RoleARN
		}
		advice := "Allow " + actions[operation] + " to " + who + "."
		if to.Kind == delivery.DurableExecution && operation != "AssumeRole" {
			advice += " The resource is the function with a version or :*."
		}
		if has("KMS", "Kms") {
			advice += " Allow the key, too."
		}
		return advice
	case has("UnrecognizedClient", "InvalidClientTokenId", "ExpiredToken", "Signature", "MissingAuthenticationToken", "InvalidAccessKeyId", "InvalidSecurity"):
		return "The sender's credentials are not valid in " + to.Region + "."
	case has("Validation") && operation == "AssumeRole":
		return "Correct the destination's role."
	case has("NotFound", "NonExistentQueue", "QueueDoesNotExist", "InvalidAddress", "InvalidParameter", "ValidationException", "BadRequest", "InvalidArn"):
		if to.Address == "" {
			return "Correct the token, or the destination's region: it was called in " + to.Region + "."
		}
		return "Correct the destination's address and region: it was called in " + to.Region + "."
	case has("MessageRejected", "MailFromDomainNotVerified"):
		return "Verify the sender in SES in " + to.Region + ", and the recipient if the account is in the sandbox."
	case has("AccountSuspended", "SendingPaused"):
		return "SES has stopped the mail of this account."
	default:
		return "A later attempt may succeed."
	}
}

// printable returns an error code if it looks like one.
func printable(code string) string {
	odd := strings.IndexFunc(code, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '.' && r != '_'
	})
	if code == "" || len(code) > 100 || odd >= 0 {
		return "an unknown code"
	}
	return code
}

// reasonOf returns the reason why a call has no answer that the SDK understands.
func reasonOf(err error) string {
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return "no answer came in time"
	}
	if dns, ok := errors.AsType[*net.DNSError](err); ok {
		return "the name " + dns.Name + " has no address; check the region"
	}
	if op, ok := errors.AsType[*net.OpError](err); ok {
		return op.Error()
	}
	if _, ok := errors.AsType[*url.Error](err); ok {
		return "the connection ended before an answer"
	}
	if _, ok := errors.AsType[*smithy.DeserializationError](err); ok {
		return "the answer is malformed"
	}
	return "the call could not be made; check the destination's address, its region and the sender's credentials"
}

// cutBytes cuts a text to a number of bytes, between two characters.
func cutBytes(text string, size int) string {
	if len(text) <= size {
		return text
	}
	for size > 0 && !utf8.RuneStart(text[size]) {
		size--
	}
	return text[:size]
}
