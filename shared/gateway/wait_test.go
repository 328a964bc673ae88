package gateway_test

import (
	"bytes"
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-lambda-go/lambdacontext"
	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/gateway"
	"github.com/flovyn/promises/shared/routes"
)

// The calls that wait, in both forms.
func waitCalls(t testing.TB, query string) map[string][]byte {
	t.Helper()
	return map[string][]byte{
		"wait-promise": httpEvent(t, "GET", tenant, "id:"+promiseID, query, ""),
		"wait-events":  httpEvent(t, "GET", tenant, workflowID, "after=1&"+query, ""),
	}
}

// A wait beyond the tenant's bound is answered at once: 200, what is so now, and when to ask again.
func TestAWaitBeyondTheBound(t *testing.T) {
	t.Parallel()
	s := newService(t)
	s.promise(t)
	s.db.Exec(t, "UPDATE tenant SET max_waits = 2")
	s.db.Tenant(t, "other")
	for _, slug := range []string{tenant, "other", tenant} {
		counted, err := s.store.BeginWait(t.Context(), slug, uuid.New(), time.Minute, 20)
		require.NoError(t, err)
		require.True(t, counted)
	}
	bodies := map[string]string{"wait-events": `{"events":[],"nextAfter":1}`, "wait-promise": s.get(t)}
	for function, event := range waitCalls(t, "waitSeconds=25") {
		got, err := s.handler(t, function).Invoke(t.Context(), event)
		require.NoError(t, err)
		a := decodeResponse(t, got)
		require.Equal(t, 200, a.StatusCode, a.Body)
		require.Equal(t, "5", a.Headers["retry-after"])
		require.Equal(t, bodies[function], a.Body, "the same body as without a wait")
	}
	direct, err := s.direct(t, "wait-promise", payloadByID+`,"waitSeconds":25}`)
	require.NoError(t, err)
	require.Equal(t, bodies["wait-promise"], direct)
	require.Contains(t, s.log.String(), `msg="tenant has too many waits" tenant=demo`)

	// What the first look answers needs no place.
	s.answer(t, "resolve", payloadByID+`,"value":1}`)
	for function, event := range waitCalls(t, "waitSeconds=25") {
		got, err := s.handler(t, function).Invoke(t.Context(), event)
		require.NoError(t, err)
		a := decodeResponse(t, got)
		require.Contains(t, a.Body, `"state":"resolved"`)
		require.NotContains(t, a.Headers, "retry-after")
	}
	require.Equal(t, 3, s.waiting(t))
}

// get is what get-promise answers about the sample promise.
func (s *service) get(t testing.TB) string {
	t.Helper()
	text, err := s.direct(t, "get-promise", payloadByID+"}")
	require.NoError(t, err)
	return text
}

// waiting is how many calls the database counts.
func (s *service) waiting(t testing.TB) (n int) {
	t.Helper()
	require.NoError(t, s.db.Pool.QueryRow(t.Context(), "SELECT COUNT(*) FROM tenant_wait").Scan(&n))
	return n
}

// While a call waits it is counted, and no longer, however its wait ends. A call that has no time to wait is never counted.
func TestAWaitIsCounted(t *testing.T) {
	t.Parallel()
	s := newService(t)
	s.promise(t)
	for function, event := range waitCalls(t, "waitSeconds=0") {
		got, err := s.handler(t, function).Invoke(t.Context(), event)
		require.NoError(t, err)
		require.NotContains(t, decodeResponse(t, got).Headers, "retry-after")
	}
	for function, event := range waitCalls(t, "waitSeconds=25") {
		h := s.handler(t, function)
		stopping := make(chan struct{})
		h.Stopping = stopping
		answers := make(chan response, 1)
		go func() {
			got, err := h.Invoke(t.Context(), event)
			assert.NoError(t, err)
			answers <- decodeResponse(t, got)
		}()
		require.Eventually(t, func() bool { return s.waiting(t) == 1 }, time.Minute, time.Millisecond)
		close(stopping)
		require.NotContains(t, (<-answers).Headers, "retry-after")
		require.Zero(t, s.waiting(t))
	}
}

// A wait takes one statement to be counted and one to end, asks for as long as it may last, and ends its row although its own time
// is over. One that the database could not count is answered at once: nothing bounds it.
func TestAWaitsPlace(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		store                   timedStore
		function                time.Duration
		took, longest           time.Duration
		looks, counted, retries int
	}{
		"settled before":       {timedStore{answered: always, settledAt: time.Unix(1, 0)}, time.Minute, 0, 0, 1, 0, 0},
		"to its end":           {timedStore{answered: always}, time.Minute, 20 * time.Second, 80 * time.Second, 135, 1, 0},
		"cut off":              {timedStore{answered: 1}, 3 * time.Second, 3*time.Second - time.Second/3, 62 * time.Second, 2, 1, 0},
		"beyond the bound":     {timedStore{answered: always, beyondBound: true}, time.Minute, 0, 80 * time.Second, 1, 0, 5},
		"the database is away": {timedStore{answered: always, unavailable: true}, time.Minute, 0, 0, 1, 0, 5},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				store := c.store
				h := store.handler("wait-promise")
				h.Timeout = time.Minute
				ctx, cancel := context.WithTimeout(t.Context(), c.function)
				defer cancel()
				begun := time.Now()
				got, err := h.Invoke(ctx, httpEvent(t, "GET", tenant, "id:"+promiseID, "", ""))
				require.NoError(t, err)
				a := decodeResponse(t, got)
				require.Equal(t, 200, a.StatusCode, a.Body)
				require.Equal(t, c.retries > 0, a.Headers["retry-after"] == "5")
				require.Equal(t, c.took, time.Since(begun))
				require.Equal(t, c.longest, store.longest)
				require.Equal(t, []int{c.looks, c.counted, c.counted}, []int{store.polls, store.counted, store.ended})
			})
		})
	}
}

// The operations that do not wait say which one does.
func TestWaitingIsElsewhere(t *testing.T) {
	t.Parallel()
	s := newService(t)
	s.promise(t)
	for _, c := range []struct{ function, identifier, direct, route, other string }{
		{"get-promise", "id:" + promiseID, payloadByID, "GET /promises/{identifier}/wait", "wait-promise"},
		{"list-events", workflowID, `{"tenant":"demo","workflowExecutionId":"` + workflowID + `"`, "GET /workflows/{workflowExecutionId}/events/wait", "wait-events"},
	} {
		got, err := s.handler(t, c.function).Invoke(t.Context(), httpEvent(t, "GET", tenant, c.identifier, "waitSeconds=1", ""))
		require.NoError(t, err)
		p := requireProblem(t, 400, "invalid_parameter", decodeResponse(t, got))
		require.Equal(t, "waitSeconds", p["field"])
		require.Contains(t, p["detail"], c.route)
		_, err = s.direct(t, c.function, c.direct+`,"waitSeconds":1}`)
		p = requireFunctionError(t, "unknown_field", err)
		require.Equal(t, "waitSeconds", p["field"])
		require.Contains(t, p["detail"], c.other)
	}
}

// invokedAs is the context of an invocation through an ARN that ends in the qualifier.
func invokedAs(t testing.TB, qualifier string) context.Context {
	t.Helper()
	return lambdacontext.NewContext(t.Context(), &lambdacontext.LambdaContext{
		InvokedFunctionArn: "arn:aws:lambda:us-east-1:123456789012:function:promises-dev-f" + qualifier,
	})
}

// An event is believed if it came through API Gateway's alias, and of an operation that has a route. Otherwise its caller has written
// it, principal and all, and is refused in the direct form: nothing of it reaches the store.
func TestWhichEventsAreBelieved(t *testing.T) {
	t.Parallel()
	s := &service{log: new(bytes.Buffer)}
	routed := map[string]bool{}
	for _, r := range routes.HTTP {
		routed[r.Function] = true
		require.Contains(t, operations, r.Function)
	}
	for function, op := range operations {
		event := httpEvent(t, "POST", tenant, "id:"+promiseID, "", `{"value":1}`)
		if function == "settle-callback" {
			event = callback{verb: "resolve", query: "token=" + sampleToken, body: []byte(`{"value":1}`)}.event(t)
		}
		for _, c := range []struct {
			alias    string
			ctx      context.Context
			believed bool
		}{
			{"http", invokedAs(t, ":http"), true},
			{"http", invokedAs(t, ""), false},
			{"http", invokedAs(t, ":$LATEST"), false},
			{"http", invokedAs(t, ":https"), false},
			{"http", invokedAs(t, ":xhttp"), false},
			{"http", invokedAs(t, ":1:http"), false},
			{"http", t.Context(), false},
			{"", invokedAs(t, ""), true},
			{"", t.Context(), true},
		} {
			store := &recorder{pending: true}
			h := s.handler(t, function)
			h.Operation, h.Store, h.HTTPAlias = op, store, c.alias
			got, err := h.Invoke(c.ctx, event)
			if c.believed && routed[function] {
				require.NoError(t, err, function)
				require.NotZero(t, decodeResponse(t, got).StatusCode, function)
				continue
			}
			detail := requireFunctionError(t, "forbidden", err)["detail"]
			require.Contains(t, detail, "takes no API Gateway event from a direct invoke", function)
			require.Contains(t, detail, map[bool]string{false: "tenant", true: "resolve-by-id or reject"}[function == "settle-callback"])
			require.Empty(t, store.calls, function)
		}
	}
	// A function with the name of the alias is not the alias.
	h := &gateway.Handler{Operation: gateway.GetPromise, Store: &recorder{}, HTTPAlias: "http", Log: s.handler(t, "get-promise").Log}
	_, err := h.Invoke(lambdacontext.NewContext(t.Context(), &lambdacontext.LambdaContext{
		InvokedFunctionArn: "arn:aws:lambda:us-east-1:123456789012:function:http",
	}), httpEvent(t, "GET", tenant, "id:"+promiseID, "", ""))
	requireFunctionError(t, "forbidden", err)
}
