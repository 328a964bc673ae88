package awssender_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/delivery"
)

// Each error of a service has one outcome. The SDK makes the call once, and the error names the operation and the code alone.
func TestErrors(t *testing.T) {
	const text = "secret QUtJRFRPS0VO"
	query := func(code string) reply { // as SQS answers a client that asks for the codes of its old protocol
		r := jsonError(400, code, text)
		r.headers["X-Amzn-Query-Error"] = "AWS.SimpleQueueService." + code + ";Sender"
		return r
	}
	limited := restError(429, "TooManyRequestsException", text)
	limited.headers["Retry-After"] = "7"
	limitedForLong := restError(429, "TooManyRequestsException", text)
	limitedForLong.headers["Retry-After"] = "86401"
	const fault, limit, gone = "The service will never take this body: this is a fault of promises.", "The service limits this sender.",
		"The task or callback has ended, or its token belongs to another account or region."
	for _, c := range []struct {
		kind    delivery.Kind
		answer  reply
		outcome delivery.Outcome
		status  int
		error   string
	}{
		{delivery.StepFunctions, jsonError(400, "TaskTimedOut", text), delivery.Gone, 400, "SendTaskSuccess failed with TaskTimedOut. " + gone},
		{delivery.StepFunctions, jsonError(400, "TaskDoesNotExist", text), delivery.Gone, 400, "SendTaskSuccess failed with TaskDoesNotExist. " + gone},
		{delivery.StepFunctions, jsonError(400, "InvalidToken", text), delivery.Refused, 400, "SendTaskSuccess failed with InvalidToken. Step Functions in eu-central-1 does not know the token: it is damaged, or belongs to another account or region."},
		{delivery.StepFunctions, jsonError(400, "InvalidOutput", text), delivery.Refused, 400, "SendTaskSuccess failed with InvalidOutput. " + fault},
		{delivery.StepFunctions, jsonError(400, "ValidationException", text), delivery.Refused, 400, "SendTaskSuccess failed with ValidationException. " + fault},
		{delivery.StepFunctions, jsonError(400, "ThrottlingException", text), delivery.Throttled, 400, "SendTaskSuccess failed with ThrottlingException. " + limit},
		{delivery.StepFunctions, jsonError(400, "KmsThrottlingException", text), delivery.Throttled, 400, "SendTaskSuccess failed with KmsThrottlingException. " + limit},
		{delivery.StepFunctions, jsonError(400, "AccessDeniedException", text), delivery.Failed, 400, "SendTaskSuccess failed with AccessDeniedException. Allow states:SendTaskSuccess to the sender's role."},
		{delivery.StepFunctions, jsonError(400, "UnrecognizedClientException", text), delivery.Failed, 400, "SendTaskSuccess failed with UnrecognizedClientException. The sender's credentials are not valid in eu-central-1."},
		{delivery.StepFunctions, jsonError(500, "InternalFailure", text), delivery.Failed, 500, "SendTaskSuccess failed with InternalFailure. A later attempt may succeed."},
		{delivery.StepFunctions, reply{status: 503, body: "<html>secret</html>"}, delivery.Failed, 503, ""},

		{delivery.DurableExecution, restError(400, "CallbackTimeoutException", text), delivery.Gone, 400, "SendDurableExecutionCallbackSuccess failed with CallbackTimeoutException. " + gone},
		{delivery.DurableExecution, restError(404, "ResourceNotFoundException", text), delivery.Gone, 404, "SendDurableExecutionCallbackSuccess failed with ResourceNotFoundException. " + gone},
		{delivery.DurableExecution, restError(413, "RequestTooLargeException", text), delivery.Refused, 413, "SendDurableExecutionCallbackSuccess failed with RequestTooLargeException. " + fault},
		{delivery.DurableExecution, restError(400, "InvalidParameterValueException", text), delivery.Failed, 400, "SendDurableExecutionCallbackSuccess failed with InvalidParameterValueException. Correct the token, or the destination's region: it was called in eu-central-1."},
		{delivery.DurableExecution, limited, delivery.Throttled, 429, "SendDurableExecutionCallbackSuccess failed with TooManyRequestsException. " + limit},
		{delivery.DurableExecution, restError(403, "AccessDeniedException", text), delivery.Failed, 403, "SendDurableExecutionCallbackSuccess failed with AccessDeniedException. Allow lambda:SendDurableExecutionCallbackSuccess to the sender's role. The resource is the function with a version or :*."},

		{delivery.Lambda, restError(404, "ResourceNotFoundException", text), delivery.Failed, 404, "Invoke failed with ResourceNotFoundException. Correct the destination's address and region: it was called in eu-west-1."},
		{delivery.Lambda, restError(403, "AccessDeniedException", text), delivery.Failed, 403, "Invoke failed with AccessDeniedException. Allow lambda:InvokeFunction to the sender's role."},
		{delivery.Lambda, restError(400, "InvalidRequestContentException", text), delivery.Refused, 400, "Invoke failed with InvalidRequestContentException. " + fault},
		{delivery.Lambda, limited, delivery.Throttled, 429, "Invoke failed with TooManyRequestsException. " + limit},
		{delivery.Lambda, limitedForLong, delivery.Throttled, 429, "Invoke failed with TooManyRequestsException. " + limit},

		{delivery.SQS, query("NonExistentQueue"), delivery.Failed, 400, "SendMessageBatch failed with NonExistentQueue. Correct the destination's address and region: it was called in eu-west-1."},
		{delivery.SQS, query("BatchRequestTooLong"), delivery.Refused, 400, "SendMessageBatch failed with BatchRequestTooLong. " + fault},
		{delivery.SQS, jsonError(403, "AccessDenied", text), delivery.Failed, 403, "SendMessageBatch failed with AccessDenied. Allow sqs:SendMessage to the sender's role."},
		{delivery.SQS, jsonError(400, "KmsAccessDenied", text), delivery.Failed, 400, "SendMessageBatch failed with KmsAccessDenied. Allow sqs:SendMessage to the sender's role. Allow the key, too."},
		{delivery.SQS, jsonError(403, "RequestThrottled", text), delivery.Throttled, 403, "SendMessageBatch failed with RequestThrottled. " + limit},

		{delivery.SNS, queryError(404, "NotFound", text), delivery.Failed, 404, "PublishBatch failed with NotFound. Correct the destination's address and region: it was called in eu-west-1."},
		{delivery.SNS, queryError(403, "AuthorizationError", text), delivery.Failed, 403, "PublishBatch failed with AuthorizationError. Allow sns:Publish to the sender's role."},
		{delivery.SNS, queryError(429, "Throttled", text), delivery.Throttled, 429, "PublishBatch failed with Throttled. " + limit},
		{delivery.SNS, queryError(400, "BatchRequestTooLong", text), delivery.Refused, 400, "PublishBatch failed with BatchRequestTooLong. " + fault},
		{delivery.SNS, queryError(403, "secret code", text), delivery.Failed, 403, "PublishBatch failed with an unknown code. A later attempt may succeed."},

		{delivery.EventBridge, jsonError(400, "ResourceNotFoundException", text), delivery.Failed, 400, "PutEvents failed with ResourceNotFoundException. Correct the destination's address and region: it was called in eu-west-1."},
		{delivery.EventBridge, jsonError(400, "AccessDeniedException", text), delivery.Failed, 400, "PutEvents failed with AccessDeniedException. Allow events:PutEvents to the sender's role."},

		{delivery.Email, restError(400, "MessageRejected", text), delivery.Failed, 400, "SendEmail failed with MessageRejected. Verify the sender in SES in eu-central-1, and the recipient if the account is in the sandbox."},
		{delivery.Email, restError(400, "AccountSuspendedException", text), delivery.Failed, 400, "SendEmail failed with AccountSuspendedException. SES has stopped the mail of this account."},
		{delivery.Email, restError(429, "TooManyRequestsException", text), delivery.Throttled, 429, "SendEmail failed with TooManyRequestsException. " + limit},
		{delivery.Email, restError(403, "AccessDeniedException", text), delivery.Failed, 403, "SendEmail failed with AccessDeniedException. Allow ses:SendEmail to the sender's role."},
	} {
		name, _, _ := strings.Cut(c.error, ". ")
		t.Run(string(c.kind)+" "+name, func(t *testing.T) {
			s := startAWS(t, func(request) reply { return c.answer })
			got := send(t, destinations[c.kind], sample(c.kind))[0]
			if c.error == "" {
				require.NotEmpty(t, got.Error)
				got.Error = ""
			}
			want := delivery.Result{ID: "d-1", Outcome: c.outcome, Status: c.status, Error: c.error}
			switch c.answer.headers["Retry-After"] {
			case "7":
				want.RetryAfter = 7 * time.Second
			case "86401":
				want.RetryAfter = delivery.MaxRetryAfter
			}
			require.Equal(t, want, got)
			s.only(t) // the SDK does not repeat the call
		})
	}
}

// A batch can fail in part. A message that the answer does not name has failed.
func TestPartialFailures(t *testing.T) {
	for _, c := range []struct {
		kind            delivery.Kind
		operation, body string
		throttled       string
	}{
		{
			delivery.SQS, "SendMessageBatch", `{"Successful":[{"Id":"2","MessageId":"m"},{"Id":"9","MessageId":"m"},{"Id":"x","MessageId":"m"}],"Failed":[` +
				`{"Id":"0","Code":"RequestThrottled","Message":"secret","SenderFault":false},` +
				`{"Id":"1","Code":"InvalidMessageContents","Message":"secret","SenderFault":true},{"Id":"4","Code":"InternalError","SenderFault":false}]}`, "RequestThrottled",
		},
		{
			delivery.SNS, "PublishBatch", `<PublishBatchResponse xmlns="http://sns.amazonaws.com/doc/2010-03-31/"><PublishBatchResult><Successful><member><Id>2</Id><MessageId>m</MessageId></member></Successful><Failed>` +
				`<member><Id>0</Id><Code>Throttled</Code><Message>secret</Message><SenderFault>false</SenderFault></member>` +
				`<member><Id>1</Id><Code>InvalidMessageContents</Code><SenderFault>true</SenderFault></member>` +
				`<member><Id>4</Id><Code>InternalError</Code><SenderFault>false</SenderFault></member></Failed></PublishBatchResult></PublishBatchResponse>`, "Throttled",
		},
		{
			delivery.EventBridge, "PutEvents", `{"FailedEntryCount":3,"Entries":[{"ErrorCode":"ThrottlingException","ErrorMessage":"secret"},` +
				`{"ErrorCode":"InvalidMessageContents","ErrorMessage":"secret"},{"EventId":"e"},{},{"ErrorCode":"InternalError"},{"EventId":"f"}]}`, "ThrottlingException",
		},
	} {
		t.Run(string(c.kind), func(t *testing.T) {
			s := startAWS(t, func(request) reply { return reply{body: c.body} })
			results := send(t, destinations[c.kind], message("a", `{}`), message("b", `{}`), message("c", `{}`), message("d", `{}`), message("e", `{}`))
			require.Equal(t, []delivery.Result{
				{ID: "d-a", Outcome: delivery.Throttled, Status: 200, Error: c.operation + " failed with " + c.throttled + ". The service limits this sender."},
				{ID: "d-b", Outcome: delivery.Refused, Status: 200, Error: c.operation + " failed with InvalidMessageContents. The service will never take this body: this is a fault of promises."},
				{ID: "d-c", Outcome: delivery.Delivered, Status: 200},
				{ID: "d-d", Outcome: delivery.Failed, Error: "The answer of " + string(c.kind) + " does not name this message."},
				{ID: "d-e", Outcome: delivery.Failed, Status: 200, Error: c.operation + " failed with InternalError. A later attempt may succeed."},
			}, results)
			s.only(t)
		})
	}
	t.Run("one call of two", func(t *testing.T) {
		startAWS(t, func(r request) reply {
			if strings.Contains(r.Body, `\"n\":10`) {
				return jsonError(400, "ThrottlingException", "")
			}
			return success(r)
		})
		var deliveries []delivery.Delivery
		for i := range 11 {
			deliveries = append(deliveries, message(string(rune('a'+i)), `{"n":`+[]string{"1", "10"}[i/10]+`}`))
		}
		results := send(t, destinations[delivery.EventBridge], deliveries...)
		for _, r := range results[:10] {
			require.Equal(t, delivery.Delivered, r.Outcome, r.Error)
		}
		require.Equal(t, delivery.Throttled, results[10].Outcome)
	})
}
