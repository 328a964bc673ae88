package awssender_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/delivery"
	"github.com/flovyn/promises/shared/delivery/awssender"
)

// success answers one call as the service does.
func success(r request) reply {
	switch r.operation() {
	case "AmazonSQS.SendMessageBatch", "AWSEvents.PutEvents":
		var in struct {
			Entries []struct{ ID string }
		}
		if err := json.Unmarshal([]byte(r.Body), &in); err != nil {
			return reply{status: 400}
		}
		var successful, entries []string
		for i, e := range in.Entries {
			successful = append(successful, fmt.Sprintf(`{"Id":%q,"MessageId":"m%d"}`, e.ID, i))
			entries = append(entries, fmt.Sprintf(`{"EventId":"e%d"}`, i))
		}
		return reply{body: `{"Successful":[` + strings.Join(successful, ",") + `],"Failed":[],"FailedEntryCount":0,"Entries":[` + strings.Join(entries, ",") + `]}`}
	case "PublishBatch":
		var members strings.Builder
		for i := range strings.Count(r.Body, ".Message=") {
			fmt.Fprintf(&members, `<member><Id>%d</Id><MessageId>m</MessageId></member>`, i)
		}
		return reply{body: `<PublishBatchResponse xmlns="http://sns.amazonaws.com/doc/2010-03-31/"><PublishBatchResult><Failed/><Successful>` + members.String() +
			`</Successful></PublishBatchResult></PublishBatchResponse>`}
	case "AssumeRole":
		return reply{body: `<AssumeRoleResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleResult><Credentials><AccessKeyId>AKIDROLE</AccessKeyId>` +
			`<SecretAccessKey>role</SecretAccessKey><SessionToken>roletoken</SessionToken><Expiration>` + time.Now().Add(time.Hour).UTC().Format(time.RFC3339) +
			`</Expiration></Credentials></AssumeRoleResult></AssumeRoleResponse>`}
	}
	switch {
	case strings.HasSuffix(r.Path, "/invocations"):
		return reply{status: 202}
	case strings.HasSuffix(r.Path, "/outbound-emails"):
		return reply{body: `{"MessageId":"m"}`}
	default:
		return reply{body: `{}`}
	}
}

// Each kind is called as its service documents it. The bodies are compared byte for byte, except for the order of SQS's attributes.
func TestRequests(t *testing.T) {
	failure := completion("d-1", delivery.Completion{Token: secretToken, Error: "promise_rejected", Cause: "no \"way\""})
	const path = "/2025-12-01/durable-execution-callbacks/QUtJRFRPS0VO/"
	fifo := destinations[delivery.SQS]
	fifo.Address += ".fifo"
	fifoTopic := destinations[delivery.SNS]
	fifoTopic.Address += ".fifo"
	for _, c := range []struct {
		name                   string
		to                     delivery.Destination
		d                      delivery.Delivery
		operation, scope, body string
		status                 int
	}{
		{
			"sqs", destinations[delivery.SQS], sample(delivery.SQS), "AmazonSQS.SendMessageBatch", "eu-west-1/sqs",
			`{"Entries":[{"Id":"0","MessageAttributes":{"tenant":{"DataType":"String","StringValue":"acme"},"type":{"DataType":"String","StringValue":"promise.resolved"}},` +
				`"MessageBody":"{\"secret\":\"body\"}"}],"QueueUrl":"https://sqs.eu-west-1.amazonaws.com/123456789012/orders"}`, 200,
		},
		{
			"sqs fifo", fifo, sample(delivery.SQS), "AmazonSQS.SendMessageBatch", "eu-west-1/sqs",
			`{"Entries":[{"Id":"0","MessageAttributes":{"tenant":{"DataType":"String","StringValue":"acme"},"type":{"DataType":"String","StringValue":"promise.resolved"}},` +
				`"MessageBody":"{\"secret\":\"body\"}","MessageDeduplicationId":"1","MessageGroupId":"wf"}],"QueueUrl":"https://sqs.eu-west-1.amazonaws.com/123456789012/orders.fifo"}`, 200,
		},
		{
			"sns", destinations[delivery.SNS], sample(delivery.SNS), "PublishBatch", "eu-west-1/sns",
			`Action=PublishBatch&PublishBatchRequestEntries.member.1.Id=0&PublishBatchRequestEntries.member.1.Message=%7B%22secret%22%3A%22body%22%7D` +
				`&PublishBatchRequestEntries.member.1.MessageAttributes.entry.1.Name=tenant&PublishBatchRequestEntries.member.1.MessageAttributes.entry.1.Value.DataType=String` +
				`&PublishBatchRequestEntries.member.1.MessageAttributes.entry.1.Value.StringValue=acme&PublishBatchRequestEntries.member.1.MessageAttributes.entry.2.Name=type` +
				`&PublishBatchRequestEntries.member.1.MessageAttributes.entry.2.Value.DataType=String&PublishBatchRequestEntries.member.1.MessageAttributes.entry.2.Value.StringValue=promise.resolved` +
				`&TopicArn=arn%3Aaws%3Asns%3Aeu-west-1%3A123456789012%3Aorders&Version=2010-03-31`, 200,
		},
		{
			"sns fifo", fifoTopic, sample(delivery.SNS), "PublishBatch", "eu-west-1/sns",
			`Action=PublishBatch&PublishBatchRequestEntries.member.1.Id=0&PublishBatchRequestEntries.member.1.Message=%7B%22secret%22%3A%22body%22%7D` +
				`&PublishBatchRequestEntries.member.1.MessageAttributes.entry.1.Name=tenant&PublishBatchRequestEntries.member.1.MessageAttributes.entry.1.Value.DataType=String` +
				`&PublishBatchRequestEntries.member.1.MessageAttributes.entry.1.Value.StringValue=acme&PublishBatchRequestEntries.member.1.MessageAttributes.entry.2.Name=type` +
				`&PublishBatchRequestEntries.member.1.MessageAttributes.entry.2.Value.DataType=String&PublishBatchRequestEntries.member.1.MessageAttributes.entry.2.Value.StringValue=promise.resolved` +
				`&PublishBatchRequestEntries.member.1.MessageDeduplicationId=1&PublishBatchRequestEntries.member.1.MessageGroupId=wf` +
				`&TopicArn=arn%3Aaws%3Asns%3Aeu-west-1%3A123456789012%3Aorders.fifo&Version=2010-03-31`, 200,
		},
		{
			"eventbridge", destinations[delivery.EventBridge], sample(delivery.EventBridge), "AWSEvents.PutEvents", "eu-west-1/events",
			`{"Entries":[{"Detail":"{\"secret\":\"body\"}","DetailType":"promise.resolved","EventBusName":"arn:aws:events:eu-west-1:123456789012:event-bus/orders","Source":"promises"}]}`, 200,
		},
		{
			"lambda", destinations[delivery.Lambda], sample(delivery.Lambda),
			"POST /2015-03-31/functions/arn%3Aaws%3Alambda%3Aeu-west-1%3A123456789012%3Afunction%3Aorders%3Alive/invocations", "eu-west-1/lambda", `{"secret":"body"}`, 202,
		},
		{
			"email", destinations[delivery.Email], sample(delivery.Email), "POST /v2/email/outbound-emails", "eu-central-1/ses",
			`{"Content":{"Simple":{"Body":{"Text":{"Charset":"UTF-8","Data":"Event: promise.resolved\nTenant: acme\nMessage: 1\n"}},"Subject":{"Charset":"UTF-8","Data":"promise.resolved"}}},` +
				`"Destination":{"ToAddresses":["ops@example.com"]},"FromEmailAddress":"promises@example.com"}`, 200,
		},
		{
			"task succeeded", destinations[delivery.StepFunctions], sample(delivery.StepFunctions), "AWSStepFunctions.SendTaskSuccess", "eu-central-1/states",
			`{"output":"{\"secret\":\"body\"}","taskToken":"QUtJRFRPS0VO"}`, 200,
		},
		{
			"task failed", destinations[delivery.StepFunctions], failure, "AWSStepFunctions.SendTaskFailure", "eu-central-1/states",
			`{"cause":"no \"way\"","error":"promise_rejected","taskToken":"QUtJRFRPS0VO"}`, 200,
		},
		{
			"task failed without a cause", destinations[delivery.StepFunctions], completion("d-1", delivery.Completion{Token: secretToken, Error: "promise_timed_out"}),
			"AWSStepFunctions.SendTaskFailure", "eu-central-1/states", `{"error":"promise_timed_out","taskToken":"QUtJRFRPS0VO"}`, 200,
		},
		{"callback succeeded", destinations[delivery.DurableExecution], sample(delivery.DurableExecution), "POST " + path + "succeed", "eu-central-1/lambda", `{"secret":"body"}`, 200},
		{
			"callback failed", destinations[delivery.DurableExecution], failure, "POST " + path + "fail", "eu-central-1/lambda",
			`{"ErrorData":"promise_rejected","ErrorMessage":"no \"way\"","ErrorType":"promise_rejected"}`, 200,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := startAWS(t, success)
			require.Equal(t, []delivery.Result{{ID: "d-1", Outcome: delivery.Delivered, Status: c.status}}, send(t, c.to, c.d))
			r := s.only(t)
			require.Equal(t, c.operation, r.operation())
			require.Contains(t, r.Header.Get("Authorization"), "Credential=AKIDOWN/"+time.Now().UTC().Format("20060102")+"/"+c.scope+"/aws4_request")
			require.Equal(t, "owntoken", r.Header.Get("X-Amz-Security-Token"))
			if c.to.Kind == delivery.SQS {
				require.JSONEq(t, c.body, r.Body)
			} else {
				require.Equal(t, c.body, r.Body)
			}
			if c.to.Kind == delivery.Lambda {
				require.Equal(t, "Event", r.Header.Get("X-Amz-Invocation-Type"))
			}
		})
	}
}

// The region is the destination's own, or the one in its address, or the sender's.
func TestRegion(t *testing.T) {
	for _, c := range []struct {
		name   string
		to     delivery.Destination
		region string
	}{
		{"its own", delivery.Destination{Kind: delivery.SNS, Address: "arn:aws:sns:eu-west-1:1:t", Region: "us-east-2"}, "us-east-2"},
		{"of the ARN", delivery.Destination{Kind: delivery.SNS, Address: "arn:aws:sns:eu-west-1:1:t"}, "eu-west-1"},
		{"of the queue", delivery.Destination{Kind: delivery.SQS, Address: "https://sqs.ap-south-1.amazonaws.com/1/q"}, "ap-south-1"},
		{"of a queue in China", delivery.Destination{Kind: delivery.SQS, Address: "https://sqs.cn-north-1.amazonaws.com.cn/1/q"}, "cn-north-1"},
		{"the sender's for a queue elsewhere", delivery.Destination{Kind: delivery.SQS, Address: "http://localhost:4566/1/q"}, region},
		{"the sender's for a name", delivery.Destination{Kind: delivery.EventBridge, Address: "orders"}, region},
		{"the sender's for a token", delivery.Destination{Kind: delivery.StepFunctions}, region},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := startAWS(t, success)
			send(t, c.to, sample(c.to.Kind))
			require.Contains(t, s.only(t).Header.Get("Authorization"), "/"+c.region+"/")
		})
	}
	t.Run("none", func(t *testing.T) {
		s := startAWS(t, success)
		t.Setenv("AWS_REGION", "")
		results := send(t, delivery.Destination{Kind: delivery.StepFunctions}, sample(delivery.StepFunctions))
		require.Equal(t, delivery.Result{ID: "d-1", Outcome: delivery.Failed, Error: "No region is configured: set the destination's region."}, results[0])
		require.Empty(t, s.received())
	})
}

// A local runner sends only to the endpoints that the environment names.
func TestEndpoints(t *testing.T) {
	services := map[delivery.Kind]string{
		delivery.SQS: "SQS", delivery.SNS: "SNS", delivery.EventBridge: "EVENTBRIDGE", delivery.Lambda: "LAMBDA", delivery.Email: "SESV2",
		delivery.StepFunctions: "SFN", delivery.DurableExecution: "LAMBDA",
	}
	for kind, to := range destinations {
		t.Run(string(kind), func(t *testing.T) {
			s := startAWS(t, success)
			t.Setenv("AWS_ENDPOINT_URL", "")
			local := awssender.New()
			local.EndpointsOnly = true
			batch := delivery.Batch{Destination: to, Deliveries: []delivery.Delivery{sample(kind)}}
			variable := "AWS_ENDPOINT_URL_" + services[kind]
			want := delivery.Result{ID: "d-1", Outcome: delivery.Failed, Error: "No endpoint is configured for " + string(kind) + ": set " + variable + "."}
			require.Equal(t, []delivery.Result{want}, local.Send(t.Context(), batch))
			require.Empty(t, s.received())

			t.Setenv(variable, s.URL)
			require.Equal(t, delivery.Delivered, local.Send(t.Context(), batch)[0].Outcome)
			url, name := awssender.Endpoint(kind)
			require.Equal(t, []string{s.URL, variable}, []string{url, name})

			t.Setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
			require.Equal(t, delivery.Delivered, local.Send(t.Context(), batch)[0].Outcome, "the service's own variable goes first")
		})
	}
	url, variable := awssender.Endpoint(delivery.HTTPS)
	require.Empty(t, url+variable)

	t.Run("a role", func(t *testing.T) {
		s := startAWS(t, success)
		t.Setenv("AWS_ENDPOINT_URL", "")
		t.Setenv("AWS_ENDPOINT_URL_SQS", s.URL)
		to := destinations[delivery.SQS]
		to.RoleARN = "arn:aws:iam::" + account + ":role/orders"
		local := awssender.New()
		local.EndpointsOnly = true
		batch := delivery.Batch{Destination: to, Deliveries: []delivery.Delivery{sample(delivery.SQS)}}
		want := delivery.Result{ID: "d-1", Outcome: delivery.Failed, Error: "No endpoint is configured for sqs: set AWS_ENDPOINT_URL_STS."}
		require.Equal(t, []delivery.Result{want}, local.Send(t.Context(), batch), "the role would be assumed in AWS")
		t.Setenv("AWS_ENDPOINT_URL_STS", s.URL)
		require.Equal(t, delivery.Delivered, local.Send(t.Context(), batch)[0].Outcome)
	})
}

// A role is assumed once, with the sender's own credentials.
func TestRole(t *testing.T) {
	to := destinations[delivery.SQS]
	to.RoleARN = "arn:aws:iam::" + account + ":role/orders"
	t.Run("assumed once and cached", func(t *testing.T) {
		s := startAWS(t, success)
		sender := awssender.New()
		var deliveries []delivery.Delivery
		for i := range 45 {
			deliveries = append(deliveries, message(fmt.Sprint(i), `{}`))
		}
		for range 2 {
			for _, r := range sender.Send(t.Context(), delivery.Batch{Destination: to, Deliveries: deliveries}) {
				require.Equal(t, delivery.Delivered, r.Outcome, r.Error)
			}
		}
		other := to
		other.RoleARN += "2"
		require.Equal(t, delivery.Delivered, sender.Send(t.Context(), delivery.Batch{Destination: other, Deliveries: deliveries[:1]})[0].Outcome)

		var roles []string
		for _, r := range s.received() {
			if r.operation() == "AssumeRole" {
				require.Contains(t, r.Header.Get("Authorization"), "Credential=AKIDOWN/")
				require.Contains(t, r.Header.Get("Authorization"), "/"+region+"/sts/")
				roles = append(roles, r.Body)
				continue
			}
			require.Contains(t, r.Header.Get("Authorization"), "Credential=AKIDROLE/")
			require.Equal(t, "roletoken", r.Header.Get("X-Amz-Security-Token"))
		}
		require.Equal(t, []string{
			"Action=AssumeRole&DurationSeconds=900&RoleArn=arn%3Aaws%3Aiam%3A%3A123456789012%3Arole%2Forders&RoleSessionName=promises&Version=2011-06-15",
			"Action=AssumeRole&DurationSeconds=900&RoleArn=arn%3Aaws%3Aiam%3A%3A123456789012%3Arole%2Forders2&RoleSessionName=promises&Version=2011-06-15",
		}, roles)
	})
	t.Run("denied", func(t *testing.T) {
		startAWS(t, func(request) reply { return queryError(403, "AccessDenied", "User secret is not authorized") })
		require.Equal(t, delivery.Result{
			ID: "d-1", Outcome: delivery.Failed, Status: 403, Error: "AssumeRole failed with AccessDenied. Allow sts:AssumeRole to the sender's role.",
		}, send(t, to, sample(delivery.SQS))[0])
	})
	t.Run("malformed", func(t *testing.T) {
		startAWS(t, func(request) reply { return queryError(400, "ValidationException", "secret") })
		tasks := destinations[delivery.StepFunctions]
		tasks.RoleARN = to.RoleARN
		r := send(t, tasks, sample(delivery.StepFunctions))[0]
		require.Equal(t, delivery.Failed, r.Outcome)
		require.Equal(t, "AssumeRole failed with ValidationException. Correct the destination's role.", r.Error)
	})
	t.Run("denied to the role", func(t *testing.T) {
		startAWS(t, func(r request) reply {
			if r.operation() == "AssumeRole" {
				return success(r)
			}
			return jsonError(403, "AccessDenied", "secret")
		})
		require.Equal(t, "SendMessageBatch failed with AccessDenied. Allow sqs:SendMessage to arn:aws:iam::123456789012:role/orders.", send(t, to, sample(delivery.SQS))[0].Error)
	})
}

// A call holds at most 10 messages and the service's bytes.
func TestBatches(t *testing.T) {
	for _, c := range []struct {
		name  string
		kind  delivery.Kind
		sizes []int
		calls int
	}{
		{"10 messages in one call", delivery.SQS, make([]int, 10), 1},
		{"11 messages in two", delivery.SQS, make([]int, 11), 2},
		{"a queue's call takes 1 MiB", delivery.SQS, []int{delivery.Limit(delivery.SQS), delivery.Limit(delivery.SQS), delivery.Limit(delivery.SQS), delivery.Limit(delivery.SQS)}, 1},
		{"and no byte more", delivery.SQS, []int{delivery.Limit(delivery.SQS), delivery.Limit(delivery.SQS), delivery.Limit(delivery.SQS), delivery.Limit(delivery.SQS), 2}, 2},
		{"a topic's call takes 256 KiB", delivery.SNS, []int{130_048, 130_048}, 1},
		{"and no byte more, too", delivery.SNS, []int{130_048, 130_049}, 2},
		{"a bus's call takes 256 KiB", delivery.EventBridge, []int{100_000, 100_000, 100_000}, 2},
		{"a function's call takes one", delivery.Lambda, []int{2, 2, 2}, 3},
		{"a mail is one message", delivery.Email, []int{2, 2, 2}, 3},
		{"a task is completed alone", delivery.StepFunctions, []int{2, 2, 2}, 3},
		{"a callback is completed alone", delivery.DurableExecution, []int{2, 2, 2}, 3},
		{"no delivery, no call", delivery.SQS, nil, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := startAWS(t, success)
			var deliveries []delivery.Delivery
			for i, size := range c.sizes {
				body := `{"v":"` + strings.Repeat("x", max(size, 8)-8) + `"}`
				d := message(fmt.Sprint(i), body)
				if c.kind == delivery.StepFunctions || c.kind == delivery.DurableExecution {
					d = completion(fmt.Sprint(i), delivery.Completion{Token: secretToken, Output: []byte(body)})
				}
				deliveries = append(deliveries, d)
			}
			for _, r := range send(t, destinations[c.kind], deliveries...) {
				require.Equal(t, delivery.Delivered, r.Outcome, r.Error)
			}
			require.Len(t, s.received(), c.calls)
		})
	}
}

// A delivery that no service can take is refused without a call, and the others are sent.
func TestRefusesUnsound(t *testing.T) {
	for kind, to := range destinations {
		t.Run(string(kind), func(t *testing.T) {
			s := startAWS(t, success)
			large := sample(kind)
			body := []byte(`{"secret":"` + strings.Repeat("x", delivery.Limit(kind)) + `"}`)
			wrong := message("w", `{}`)
			if large.ID = "large"; large.Message != nil {
				large.Message.Body = body
				wrong = completion("w", delivery.Completion{Token: secretToken, Output: []byte(`{}`)})
			} else {
				large.Completion.Output = body
			}
			results := send(t, to, large, wrong, sample(kind), delivery.Delivery{ID: "none"})
			require.Equal(t, delivery.Result{ID: "large", Outcome: delivery.Refused, Error: "The body is larger than " + string(kind) + " takes: this is a fault of promises."}, results[0])
			require.Equal(t, delivery.Refused, results[1].Outcome)
			require.Equal(t, delivery.Delivered, results[2].Outcome, results[2].Error)
			require.Equal(t, delivery.Refused, results[3].Outcome)
			require.Len(t, s.received(), 1)
		})
	}
	t.Run("another kind", func(t *testing.T) {
		require.Equal(t, delivery.Refused, send(t, delivery.Destination{Kind: delivery.HTTPS}, message("1", `{}`))[0].Outcome)
	})
}

// Several calls run at once, within a bound. A FIFO queue gets one after the other, in order.
func TestConcurrency(t *testing.T) {
	fifo := destinations[delivery.SQS]
	fifo.Address += ".fifo"
	for _, c := range []struct {
		name   string
		to     delivery.Destination
		atOnce int
	}{{"tasks", destinations[delivery.StepFunctions], 16}, {"mails", destinations[delivery.Email], 4}, {"fifo", fifo, 1}} {
		t.Run(c.name, func(t *testing.T) {
			var running, most atomic.Int32
			full := make(chan struct{})
			var once sync.Once
			s := startAWS(t, func(r request) reply {
				n := running.Add(1)
				defer running.Add(-1)
				for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
				}
				if int(n) == c.atOnce {
					once.Do(func() { close(full) })
				}
				select { // until as many calls as possible run
				case <-full:
				case <-time.After(10 * time.Second):
				}
				return success(r)
			})
			var deliveries []delivery.Delivery
			for i := range 60 {
				d := message(fmt.Sprint(i), `{}`)
				if c.to.Kind == delivery.StepFunctions {
					d = completion(fmt.Sprint(i), delivery.Completion{Token: secretToken, Output: []byte(`{}`)})
				}
				deliveries = append(deliveries, d)
			}
			for _, r := range send(t, c.to, deliveries...) {
				require.Equal(t, delivery.Delivered, r.Outcome, r.Error)
			}
			require.EqualValues(t, c.atOnce, most.Load())
			if c.atOnce == 1 {
				for i, r := range s.received() {
					require.Contains(t, r.Body, fmt.Sprintf(`"MessageDeduplicationId":"%d"`, 10*i))
				}
			}
		})
	}
}

// A batch ends with its context. Each delivery has a result, also one that was never sent.
func TestContextEnds(t *testing.T) {
	for kind, to := range destinations {
		t.Run(string(kind), func(t *testing.T) {
			hang := make(chan struct{})
			s := startAWS(t, func(request) reply { <-hang; return reply{} })
			defer close(hang)
			var deliveries []delivery.Delivery
			for i := range 90 {
				d := sample(kind)
				d.ID = fmt.Sprint(i)
				deliveries = append(deliveries, d)
			}
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan []delivery.Result)
			go func() {
				done <- awssender.New().Send(ctx, delivery.Batch{Destination: to, Deliveries: deliveries})
			}()
			require.Eventually(t, func() bool { return len(s.received()) > 0 }, 10*time.Second, time.Millisecond)
			cancel()
			results := <-done
			require.Len(t, results, 90)
			const unsent = "The time of the batch ended before this call."
			for i, r := range results {
				require.Equal(t, deliveries[i].ID, r.ID)
				if r.Error == unsent {
					require.Equal(t, delivery.Throttled, r.Outcome, "a delivery that was not sent is no attempt")
					continue
				}
				require.Equal(t, delivery.Failed, r.Outcome)
				require.Regexp(t, `^\w+: no answer came in time\.$`, r.Error)
			}
			require.Equal(t, unsent, results[89].Error)
		})
	}
}

// A call without an answer ends by itself, and so does the assumption of a role. The next call is made.
func TestTimeout(t *testing.T) {
	for _, role := range []string{"", "arn:aws:iam::" + account + ":role/orders"} {
		t.Run("role "+role, func(t *testing.T) {
			hang := make(chan struct{})
			defer close(hang)
			startAWS(t, func(r request) reply {
				if strings.Contains(r.Body, `"taskToken":"hangs"`) || r.operation() == "AssumeRole" {
					<-hang
				}
				return success(r)
			})
			sender := awssender.New()
			sender.SetTimeout(50 * time.Millisecond)
			to := destinations[delivery.StepFunctions]
			to.RoleARN = role
			results := sender.Send(t.Context(), delivery.Batch{Destination: to, Deliveries: []delivery.Delivery{
				completion("1", delivery.Completion{Token: "hangs", Output: []byte(`{}`)}),
			}})
			require.Equal(t, delivery.Failed, results[0].Outcome)
			require.Contains(t, results[0].Error, ": no answer came in time.")

			if role == "" {
				sender.SetTimeout(10 * time.Second)
				results = sender.Send(t.Context(), delivery.Batch{Destination: to, Deliveries: []delivery.Delivery{sample(delivery.StepFunctions)}})
				require.Equal(t, delivery.Delivered, results[0].Outcome, results[0].Error)
			}
		})
	}
}

// An endpoint on this machine may be called without credentials.
func TestWithoutCredentials(t *testing.T) {
	s := startAWS(t, success)
	t.Setenv("AWS_ACCESS_KEY_ID", "")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "")
	t.Setenv("AWS_SESSION_TOKEN", "")
	for kind, to := range destinations {
		require.Equal(t, delivery.Delivered, send(t, to, sample(kind))[0].Outcome)
	}
	require.Len(t, s.received(), len(destinations))
}

// A fault of the connection is reported without the request's URL, which holds the token.
func TestConnections(t *testing.T) {
	for name, c := range map[string]struct {
		endpoint string // empty: a server that closes the connection
		reason   string
	}{
		"refused":      {"http://127.0.0.1:1", `connection refused`},
		"no such name": {"http://lambda.nowhere.invalid", `the name lambda.nowhere.invalid has no address; check the region|dial tcp: lookup`},
		"closed":       {"", "the connection ended before an answer"},
	} {
		t.Run(name, func(t *testing.T) {
			s := startAWS(t, func(request) reply { panic(http.ErrAbortHandler) })
			if c.endpoint != "" {
				t.Setenv("AWS_ENDPOINT_URL", c.endpoint)
			}
			r := send(t, destinations[delivery.DurableExecution], sample(delivery.DurableExecution))[0]
			require.Equal(t, delivery.Failed, r.Outcome)
			require.Regexp(t, c.reason, r.Error)
			require.True(t, strings.HasPrefix(r.Error, "SendDurableExecutionCallbackSuccess: "), r.Error)
			require.LessOrEqual(t, len(s.received()), 1, "the SDK does not repeat the call")
		})
	}
	t.Run("malformed answer", func(t *testing.T) {
		startAWS(t, func(request) reply { return reply{body: `{"Entries":`} })
		r := send(t, destinations[delivery.EventBridge], sample(delivery.EventBridge))[0]
		require.Equal(t, delivery.Failed, r.Outcome, r.Error)
	})
}
