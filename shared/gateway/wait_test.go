package gateway_test

import (
	"bytes"
	"cmp"
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

// waitCalls returns an HTTP event of each operation that waits, for the sample promise.
func waitCalls(t testing.TB, query string) map[string][]byte {
	t.Helper()
	return map[string][]byte{
		"wait-promise": httpEvent(t, "GET", tenant, "id:"+promiseID, query, ""),
		"wait-events":  httpEvent(t, "GET", tenant, workflowID, "after=1&"+query, ""),
	}
}

// A call that waits beyond its tenant's limit is answered at once: 200, the current state, and Retry-After.
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
		t.Run(function+" returns at once the body of a call that does not wait", func(t *testing.T) {
			got, err := s.handler(t, function).Invoke(t.Context(), event)
			require.NoError(t, err)
			a := decodeResponse(t, got)
			require.Equal(t, 200, a.StatusCode, a.Body)
			require.Equal(t, "5", a.Headers["retry-after"])
			require.Equal(t, bodies[function], a.Body)
		})
	}
	t.Run("a direct invoke returns the same body", func(t *testing.T) {
		direct, err := s.direct(t, "wait-promise", payloadByID+`,"waitSeconds":25}`)
		require.NoError(t, err)
		require.Equal(t, bodies["wait-promise"], direct)
	})
	t.Run("the log names the tenant", func(t *testing.T) {
		require.Contains(t, s.log.String(), `msg="tenant has too many waits" tenant=demo`)
	})

	s.answer(t, "resolve", payloadByID+`,"value":1}`)
	for function, event := range waitCalls(t, "waitSeconds=25") {
		t.Run(function+" of a settled promise does not wait and needs no place", func(t *testing.T) {
			got, err := s.handler(t, function).Invoke(t.Context(), event)
			require.NoError(t, err)
			a := decodeResponse(t, got)
			require.Contains(t, a.Body, `"state":"resolved"`)
			require.NotContains(t, a.Headers, "retry-after")
		})
	}
	t.Run("no call beyond the limit was counted", func(t *testing.T) {
		require.Equal(t, 3, s.waiting(t))
	})
}

// get returns the answer of get-promise for the sample promise.
func (s *service) get(t testing.TB) string {
	t.Helper()
	text, err := s.direct(t, "get-promise", payloadByID+"}")
	require.NoError(t, err)
	return text
}

// waiting returns the number of calls that the database counts as waiting.
func (s *service) waiting(t testing.TB) (n int) {
	t.Helper()
	require.NoError(t, s.db.Pool.QueryRow(t.Context(), "SELECT COUNT(*) FROM tenant_wait").Scan(&n))
	return n
}

// The database counts a call while it waits, and stops when the wait ends for any reason. A call with waitSeconds=0 is never counted.
func TestAWaitIsCounted(t *testing.T) {
	t.Parallel()
	s := newService(t)
	s.promise(t)
	for function, event := range waitCalls(t, "waitSeconds=0") {
		t.Run(function+" with waitSeconds=0 needs no place", func(t *testing.T) {
			got, err := s.handler(t, function).Invoke(t.Context(), event)
			require.NoError(t, err)
			require.NotContains(t, decodeResponse(t, got).Headers, "retry-after")
		})
	}
	for function, event := range waitCalls(t, "waitSeconds=25") {
		t.Run(function+" is counted until its process stops", func(t *testing.T) {
			h := s.handler(t, function)
			stopping := make(chan struct{})
			h.Stopping = stopping
			answers := make(chan []byte, 1)
			go func() {
				got, err := h.Invoke(t.Context(), event)
				assert.NoError(t, err)
				answers <- got
			}()
			require.Eventually(t, func() bool { return s.waiting(t) == 1 }, time.Minute, time.Millisecond)
			close(stopping)
			require.NotContains(t, decodeResponse(t, <-answers).Headers, "retry-after")
			require.Zero(t, s.waiting(t))
		})
	}
}

// A wait takes one statement that counts it and one that removes its row. It reserves its place for the longest time that it may
// last, and removes its row although its own time has ended. If the database cannot count a call, nothing limits it, so it does not wait.
func TestAWaitsPlace(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		store                   timedStore
		function                time.Duration // until the function's own end
		took, longest           time.Duration
		polls, counted, retries int
	}{
		"a settled promise takes no place":               {timedStore{answered: always, settledAt: time.Unix(1, 0)}, time.Minute, 0, 0, 1, 0, 0},
		"a wait to its end is counted and removed":       {timedStore{answered: always}, time.Minute, 20 * time.Second, 80 * time.Second, 135, 1, 0},
		"a wait that the function's end cuts is removed": {timedStore{answered: 1}, 3 * time.Second, 3*time.Second - time.Second/3, 62 * time.Second, 2, 1, 0},
		"a call beyond the tenant's limit does not wait": {timedStore{answered: always, beyondBound: true}, time.Minute, 0, 80 * time.Second, 1, 0, 5},
		"a call that cannot be counted does not wait":    {timedStore{answered: always, unavailable: true}, time.Minute, 0, 0, 1, 0, 5},
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
				require.Equal(t, c.took, time.Since(begun), "duration of the call")
				require.Equal(t, c.longest, store.longest, "time for which the place is reserved")
				require.Equal(t, []int{c.polls, c.counted, c.counted}, []int{store.polls, store.counted, store.ended}, "polls, rows added, rows removed")
			})
		})
	}
}

// An operation that does not wait refuses waitSeconds, and names the operation that does.
func TestWaitingIsElsewhere(t *testing.T) {
	t.Parallel()
	s := withoutDatabase()
	for _, c := range []struct{ function, identifier, direct, route, other string }{
		{"get-promise", "id:" + promiseID, payloadByID, "GET /promises/{identifier}/wait", "wait-promise"},
		{"list-events", workflowID, `{"tenant":"demo","workflowExecutionId":"` + workflowID + `"`, "GET /workflows/{workflowExecutionId}/events/wait", "wait-events"},
	} {
		t.Run(c.function+" by HTTP names the route of "+c.other, func(t *testing.T) {
			got, err := s.handler(t, c.function).Invoke(t.Context(), httpEvent(t, "GET", tenant, c.identifier, "waitSeconds=1", ""))
			require.NoError(t, err)
			p := requireProblem(t, 400, "invalid_parameter", decodeResponse(t, got))
			require.Equal(t, "waitSeconds", p["field"])
			require.Contains(t, p["detail"], c.route)
		})
		t.Run(c.function+" in a direct invoke names "+c.other, func(t *testing.T) {
			_, err := s.direct(t, c.function, c.direct+`,"waitSeconds":1}`)
			p := requireFunctionError(t, "unknown_field", err)
			require.Equal(t, "waitSeconds", p["field"])
			require.Contains(t, p["detail"], c.other)
		})
	}
}

// invokedAs returns the context of an invocation through the function's ARN with the qualifier appended.
func invokedAs(t testing.TB, qualifier string) context.Context {
	t.Helper()
	return lambdacontext.NewContext(t.Context(), &lambdacontext.LambdaContext{
		InvokedFunctionArn: "arn:aws:lambda:us-east-1:123456789012:function:promises-dev-f" + qualifier,
	})
}

// A function reads an API Gateway event only if it was invoked through API Gateway's alias, and only if its operation has a route. In
// any other case the caller wrote the event, principal included: the call is refused in the direct form and never reaches the store.
func TestWhichEventsAreAccepted(t *testing.T) {
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
			name, alias string
			ctx         context.Context
			accepted    bool
		}{
			{"the alias", "http", invokedAs(t, ":http"), true},
			{"the function's own ARN", "http", invokedAs(t, ""), false},
			{"$LATEST", "http", invokedAs(t, ":$LATEST"), false},
			{"an alias that begins with the alias", "http", invokedAs(t, ":https"), false},
			{"an alias that ends in the alias", "http", invokedAs(t, ":xhttp"), false},
			{"a version and the alias", "http", invokedAs(t, ":1:http"), false},
			{"no ARN", "http", t.Context(), false},
			{"the function's own ARN where no alias is set", "", invokedAs(t, ""), true},
			{"no ARN where no alias is set", "", t.Context(), true},
		} {
			t.Run(function+" through "+c.name, func(t *testing.T) {
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
				instead := map[string]string{"settle-callback": "resolve-by-id or reject", "receive-webhook": "resolve-by-key or reject"}
				require.Contains(t, detail, cmp.Or(instead[function], "tenant"))
				require.Empty(t, store.calls)
			})
		}
	}
	t.Run("a function whose own name is the alias's is not invoked through the alias", func(t *testing.T) {
		h := &gateway.Handler{Operation: gateway.GetPromise, Store: &recorder{}, HTTPAlias: "http", Log: s.handler(t, "get-promise").Log}
		_, err := h.Invoke(lambdacontext.NewContext(t.Context(), &lambdacontext.LambdaContext{
			InvokedFunctionArn: "arn:aws:lambda:us-east-1:123456789012:function:http",
		}), httpEvent(t, "GET", tenant, "id:"+promiseID, "", ""))
		requireFunctionError(t, "forbidden", err)
	})
}
