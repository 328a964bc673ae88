package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
	"github.com/stretchr/testify/require"
)

// A posted is a request that a stand-in received.
type posted struct {
	header http.Header
	body   string
}

// standIn starts an HTTP server that answers each request with {}, and returns its URL and its requests.
func standIn(t *testing.T) (url string, requests <-chan posted) {
	t.Helper()
	received := make(chan posted, 100)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Type", r.Header.Get("Content-Type"))
		fmt.Fprint(w, `{}`)
		received <- posted{r.Header, string(body)}
	}))
	t.Cleanup(server.Close)
	return server.URL, received
}

// await returns the next request of a stand-in.
func await(t *testing.T, r *runner, requests <-chan posted) posted {
	t.Helper()
	select {
	case p := <-requests:
		return p
	case <-time.After(time.Minute):
		require.FailNow(t, "nothing was delivered", "%s%s", &r.stdout, &r.stderr)
		return posted{}
	}
}

// settleNotifying creates a promise with a target, resolves it over HTTP, and returns its id.
func (r *runner) settleNotifying(t *testing.T, notify string) (promiseID string) {
	t.Helper()
	status, p := r.call(t, "POST", "/promises", fmt.Sprintf(`{"workflowExecutionId":%q,"name":"payment","notify":[%s]}`, uuid.NewString(), notify))
	require.Equal(t, 201, status, "%v", p)
	id := p["promiseId"].(string)
	status, p = r.call(t, "POST", "/promises/id:"+id+"/resolve", `{"value":{"paid": true}}`)
	require.Equal(t, 200, status, "%v", p)
	return id
}

// delivery waits until the promise's only delivery satisfies the condition.
func (r *runner) delivery(t *testing.T, promiseID string, ok func(d map[string]any) bool) (d map[string]any) {
	t.Helper()
	require.Eventually(t, func() bool {
		status, list := r.call(t, "GET", "/deliveries?promiseId="+promiseID, "")
		require.Equal(t, 200, status, "%v", list)
		d = list["deliveries"].([]any)[0].(map[string]any)
		return ok(d)
	}, time.Minute, 20*time.Millisecond, "%v\n%s", &r.stdout, &r.stderr)
	return d
}

func isDelivered(d map[string]any) bool { return d["state"] == "delivered" }

// hasFailed reports whether an attempt has failed.
func hasFailed(d map[string]any) bool { return d["lastError"] != nil }

// A settlement over HTTP notifies a receiver on loopback and, in place of AWS, the endpoints of the environment.
func TestDeliveries(t *testing.T) {
	t.Parallel()
	states, completions := standIn(t)
	r := startCommand(t, []string{"AWS_ENDPOINT_URL_SFN=" + states}, []string{localBinary}, "--data", filepath.Join(tempFolder(t), "data")).awaitReady(t)

	t.Run("a signed message", func(t *testing.T) { testSignedMessage(t, r) })
	t.Run("a task of Step Functions", func(t *testing.T) {
		token := "AQCEAAAAKgAAAAMAAAAA" + strings.Repeat("secret", 20)
		id := r.settleNotifying(t, `{"stepFunctions":{"taskToken":"`+token+`"}}`)
		p := await(t, r, completions)
		require.Equal(t, "AWSStepFunctions.SendTaskSuccess", p.header.Get("X-Amz-Target"))
		require.JSONEq(t, fmt.Sprintf(`{"taskToken":%q,"output":%q}`, token, `{"promiseId":"`+id+`","state":"resolved","value":{"paid": true}}`), p.body)
		r.delivery(t, id, isDelivered)
		require.NotContains(t, r.stdout.String()+r.stderr.String(), token)
	})
	t.Run("the state machine of the guide", func(t *testing.T) { testStateMachine(t, r, completions) })
	t.Run("without an endpoint", func(t *testing.T) {
		id := r.settleNotifying(t, `{"durableExecution":{"callbackId":"Y2FsbGJhY2s="}}`)
		d := r.delivery(t, id, hasFailed)
		require.Equal(t, "due", d["state"])
		require.Equal(t, "No endpoint is configured for durableExecution: set AWS_ENDPOINT_URL_LAMBDA.", d["lastError"],
			"the endpoint of the runner is for the relay alone")
	})
	t.Run("one line for each attempt", func(t *testing.T) {
		for _, line := range []string{
			`https  demo/orders  delivered 200`,
			`stepFunctions  demo/stepFunctions  delivered 200`,
			`durableExecution  demo/durableExecution  failed, due again: No endpoint is configured for durableExecution: set AWS_ENDPOINT_URL_LAMBDA\.`,
		} {
			require.Eventually(t, func() bool {
				return regexp.MustCompile(`(?m)^\d\d:\d\d:\d\d  delivery +\d+ ms  ` + line + `$`).MatchString(r.stdout.String())
			}, time.Minute, 10*time.Millisecond, "%s", &r.stdout)
		}
	})
	r.stop(t, syscall.SIGINT)
	t.Run("Ctrl-C is no failure of the relay", func(t *testing.T) {
		require.NotRegexp(t, `(relay|send)-deliveries .*(Runtime|Sandbox|Function)\.`, r.stdout.String())
	})
}

// testSignedMessage registers a receiver on loopback, and verifies its message as a receiver does.
func testSignedMessage(t *testing.T, r *runner) {
	receiver, messages := standIn(t)
	status, made := r.call(t, "PUT", "/destinations/orders", `{"kind":"https","url":"`+receiver+`/hook"}`)
	require.Equal(t, 201, status, "%v", made)
	secret := made["secret"].(string)
	id := r.settleNotifying(t, `{"destination":"orders"}`)
	p := await(t, r, messages)
	webhook, err := standardwebhooks.NewWebhook(secret)
	require.NoError(t, err)
	require.NoError(t, webhook.Verify([]byte(p.body), p.header))
	d := r.delivery(t, id, isDelivered)
	require.Equal(t, d["deliveryId"], p.header.Get("webhook-id"))
	var message struct {
		ID, Type, Tenant string
		Data             struct {
			PromiseID, State string
			Value            json.RawMessage
		}
	}
	require.NoError(t, json.Unmarshal([]byte(p.body), &message))
	require.Equal(t, []any{d["deliveryId"], "promise.resolved", "demo"}, []any{message.ID, message.Type, message.Tenant})
	require.Equal(t, []string{id, "resolved", `{"paid": true}`}, []string{message.Data.PromiseID, message.Data.State, string(message.Data.Value)})
	require.NotContains(t, r.stdout.String()+r.stderr.String(), secret)
}

// guideCode returns the first code block of a language in the guide of deliveries.
func guideCode(t *testing.T, language string) string {
	t.Helper()
	guide, err := os.ReadFile("../../shared/delivery/README.md")
	require.NoError(t, err)
	_, text, ok := strings.Cut(string(guide), "\n```"+language+"\n")
	require.True(t, ok)
	text, _, _ = strings.Cut(text, "\n```\n")
	return text + "\n"
}

// testStateMachine sends the payload of the guide's state machine twice, as Step Functions does after a lost answer: with the values of its
// paths, and a new token the second time.
func testStateMachine(t *testing.T, r *runner, completions <-chan posted) {
	var machine struct {
		StartAt string
		States  map[string]struct {
			Parameters struct {
				FunctionName string
				Payload      json.RawMessage
			}
		}
	}
	require.NoError(t, json.Unmarshal([]byte(guideCode(t, "json")), &machine))
	parameters := machine.States[machine.StartAt].Parameters
	execution := "arn:aws:states:us-east-1:123456789012:execution:payments:" + uuid.NewString()
	create := func(token string) map[string]any {
		payload := strings.NewReplacer(
			`"tenant": "acme"`, `"tenant": "demo"`, `"workflowId.$": "$$.Execution.Id"`, `"workflowId": "`+execution+`"`,
			`"idempotencyKey.$": "$.chargeId"`, `"idempotencyKey": "stripe:ch_guide"`, `"taskToken.$": "$$.Task.Token"`, `"taskToken": "`+token+`"`,
		).Replace(string(parameters.Payload))
		require.NotContains(t, payload, ".$")
		out := r.lambda(t, parameters.FunctionName, payload)
		require.Nil(t, out.FunctionError, "%s", out.Payload)
		var p map[string]any
		require.NoError(t, json.Unmarshal(out.Payload, &p))
		return p
	}
	first, again := create("first"), create("again")
	require.Equal(t, []any{true, false}, []any{first["created"], again["created"]})
	require.Equal(t, first["promiseId"], again["promiseId"])
	status, settled := r.call(t, "POST", "/promises/key:stripe:ch_guide/reject", `{"error":"no funds"}`)
	require.Equal(t, 200, status, "%v", settled)
	p := await(t, r, completions)
	require.Equal(t, "AWSStepFunctions.SendTaskFailure", p.header.Get("X-Amz-Target"))
	require.JSONEq(t, `{"taskToken":"again","error":"promise_rejected","cause":"no funds"}`, p.body)
	create("afterwards")
	p = await(t, r, completions)
	require.JSONEq(t, `{"taskToken":"afterwards","error":"promise_rejected","cause":"no funds"}`, p.body)
}
