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

// waitCalls returns an HTTP event of each function that waits.
func waitCalls(t testing.TB, query string) map[string][]byte {
	t.Helper()
	return map[string][]byte{
		"wait-promise": httpEvent(t, "GET", tenant, "id:"+promiseID, query, ""),
		"wait-events":  httpEvent(t, "GET", tenant, workflowID, "after=1&"+query, ""),
	}
}

// A wait beyond the tenant's bound is answered at once, with 200, the present state and Retry-After.
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
		t.Run(function, func(t *testing.T) {
			a := respond(t, s.handler(t, function), event)
			require.Equal(t, 200, a.StatusCode, a.Body)
			require.Equal(t, "5", a.Headers["retry-after"])
			require.Equal(t, bodies[function], a.Body, "the same body as without a wait")
		})
	}
	t.Run("wait-promise, direct", func(t *testing.T) {
		direct, err := s.direct(t, "wait-promise", payloadByID+`,"waitSeconds":25}`)
		require.NoError(t, err)
		require.Equal(t, bodies["wait-promise"], direct)
	})
	require.Contains(t, s.log.String(), `msg="tenant has too many waits" tenant=demo`)

	s.answer(t, "resolve", payloadByID+`,"value":1}`)
	for function, event := range waitCalls(t, "waitSeconds=25") {
		t.Run(function+", answered by the first poll", func(t *testing.T) {
			a := respond(t, s.handler(t, function), event)
			require.Contains(t, a.Body, `"state":"resolved"`)
			require.NotContains(t, a.Headers, "retry-after", "the bound does not matter")
		})
	}
	require.Equal(t, 3, s.waiting(t))
}

// get returns get-promise's answer about the sample promise.
func (s *service) get(t testing.TB) string {
	t.Helper()
	text, err := s.direct(t, "get-promise", payloadByID+"}")
	require.NoError(t, err)
	return text
}

// waiting returns how many waiting calls the database counts.
func (s *service) waiting(t testing.TB) (n int) {
	t.Helper()
	require.NoError(t, s.db.Pool.QueryRow(t.Context(), "SELECT COUNT(*) FROM tenant_wait").Scan(&n))
	return n
}

// A call is counted while it waits, and its count ends with its wait. A call without time to wait is never counted.
func TestAWaitIsCounted(t *testing.T) {
	t.Parallel()
	s := newService(t)
	s.promise(t)
	for function, event := range waitCalls(t, "waitSeconds=0") {
		t.Run(function+", without time to wait", func(t *testing.T) {
			require.NotContains(t, respond(t, s.handler(t, function), event).Headers, "retry-after")
		})
	}
	for function, event := range waitCalls(t, "waitSeconds=25") {
		t.Run(function, func(t *testing.T) {
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
		})
	}
}

// A wait is counted by one statement, for as long as it may last. Another statement ends the count, even if the call's own time is
// up. A call that the database cannot count is answered at once, because an uncounted wait would have no bound.
func TestAWaitsCount(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		store                   timedStore
		function                time.Duration
		took, longest           time.Duration
		looks, counted, retries int
	}{
		"settled before":                {timedStore{answered: always, settledAt: time.Unix(1, 0)}, time.Minute, 0, 0, 1, 0, 0},
		"until its time is up":          {timedStore{answered: always}, time.Minute, 20 * time.Second, 80 * time.Second, 135, 1, 0},
		"cut off by the function's end": {timedStore{answered: 1}, 3 * time.Second, 3*time.Second - time.Second/3, 62 * time.Second, 2, 1, 0},
		"beyond the bound":              {timedStore{answered: always, beyondBound: true}, time.Minute, 0, 80 * time.Second, 1, 0, 5},
		"the database is away":          {timedStore{answered: always, unavailable: true}, time.Minute, 0, 0, 1, 0, 5},
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

// An operation that does not wait names the operation that does.
func TestOperationsThatDoNotWait(t *testing.T) {
	t.Parallel()
	s := withoutDatabase()
	for _, c := range []struct{ function, identifier, direct, route, other string }{
		{"get-promise", "id:" + promiseID, payloadByID, "GET /promises/{identifier}/wait", "wait-promise"},
		{"list-events", workflowID, `{"tenant":"demo","workflowExecutionId":"` + workflowID + `"`, "GET /workflows/{workflowExecutionId}/events/wait", "wait-events"},
	} {
		t.Run(c.function, func(t *testing.T) {
			got := respond(t, s.handler(t, c.function), httpEvent(t, "GET", tenant, c.identifier, "waitSeconds=1", ""))
			p := requireProblem(t, 400, "invalid_parameter", got)
			require.Equal(t, "waitSeconds", p["field"])
			require.Contains(t, p["detail"], c.route)
		})
		t.Run(c.function+", direct", func(t *testing.T) {
			_, err := s.direct(t, c.function, c.direct+`,"waitSeconds":1}`)
			p := requireFunctionError(t, "unknown_field", err)
			require.Equal(t, "waitSeconds", p["field"])
			require.Contains(t, p["detail"], c.other)
		})
	}
}

// invokedAs returns the context of an invocation through an ARN that ends in the qualifier.
func invokedAs(t testing.TB, qualifier string) context.Context {
	t.Helper()
	return lambdacontext.NewContext(t.Context(), &lambdacontext.LambdaContext{
		InvokedFunctionArn: "arn:aws:lambda:us-east-1:123456789012:function:promises-dev-f" + qualifier,
	})
}

// An event is accepted if it came through API Gateway's alias and the operation has a route. Any other event was written by its
// caller, with a principal of the caller's choice. It is refused with a function error, and does not reach the store.
func TestEventsThroughTheAlias(t *testing.T) {
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
			name     string
			alias    string
			ctx      context.Context
			accepted bool
		}{
			{"the alias", "http", invokedAs(t, ":http"), true},
			{"no qualifier", "http", invokedAs(t, ""), false},
			{"$LATEST", "http", invokedAs(t, ":$LATEST"), false},
			{"an alias that begins like it", "http", invokedAs(t, ":https"), false},
			{"an alias that ends like it", "http", invokedAs(t, ":xhttp"), false},
			{"two qualifiers", "http", invokedAs(t, ":1:http"), false},
			{"no ARN", "http", t.Context(), false},
			{"any ARN, if no alias is set", "", invokedAs(t, ""), true},
			{"no ARN, if no alias is set", "", t.Context(), true},
		} {
			t.Run(caseName(function, c.name), func(t *testing.T) {
				store := &recorder{pending: true}
				h := s.handler(t, function)
				h.Operation, h.Store, h.HTTPAlias = op, store, c.alias
				got, err := h.Invoke(c.ctx, event)
				if c.accepted && routed[function] {
					require.NoError(t, err)
					require.NotZero(t, decodeResponse(t, got).StatusCode)
					return
				}
				detail := requireFunctionError(t, "forbidden", err)["detail"]
				require.Contains(t, detail, "takes no API Gateway event from a direct invoke")
				require.Contains(t, detail, map[bool]string{false: "tenant", true: "resolve-by-id or reject"}[function == "settle-callback"])
				require.Empty(t, store.calls)
			})
		}
	}
	t.Run("a function whose name is the alias's", func(t *testing.T) {
		h := &gateway.Handler{Operation: gateway.GetPromise, Store: &recorder{}, HTTPAlias: "http", Log: s.handler(t, "get-promise").Log}
		_, err := h.Invoke(lambdacontext.NewContext(t.Context(), &lambdacontext.LambdaContext{
			InvokedFunctionArn: "arn:aws:lambda:us-east-1:123456789012:function:http",
		}), httpEvent(t, "GET", tenant, "id:"+promiseID, "", ""))
		requireFunctionError(t, "forbidden", err)
	})
}
