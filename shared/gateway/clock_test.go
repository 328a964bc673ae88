package gateway_test

import (
	"bytes"
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/promise"
)

// A wait is answered at the first poll after the settlement. For a settled promise, that is the first poll of all.
func TestAWaitIsAnsweredSoon(t *testing.T) {
	t.Parallel()
	for function, payload := range map[string]string{
		"wait-promise": payloadByID + `,"waitSeconds":25}`,
		"wait-events":  `{"tenant":"demo","workflowExecutionId":"` + workflowID + `","after":1,"waitSeconds":25}`,
	} {
		for _, after := range []time.Duration{0, time.Millisecond, 1010 * time.Millisecond, 24900 * time.Millisecond} {
			t.Run(fmt.Sprintf("%s, settled after %v", function, after), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					begun := time.Now()
					c := &timedStore{settledAt: begun.Add(after), answered: always}
					got, err := c.handler(function).Invoke(t.Context(), []byte(payload))
					require.NoError(t, err)
					require.Contains(t, string(got), `"state":"resolved"`)
					took := time.Since(begun)
					require.GreaterOrEqual(t, took, after)
					require.Less(t, took, after+150*time.Millisecond)
				})
			})
		}
	}
}

// A wait ends with the present state, when its time is up, before its function's end, or when its credential expires.
func TestAWaitEnds(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		functions, credentials, want time.Duration
		answers                      int
	}{
		"when its own time is up":                        {time.Minute, time.Hour, 25 * time.Second, always},
		"before the function's end":                      {3 * time.Second, time.Hour, 2 * time.Second, always},
		"when the credential expires":                    {time.Minute, time.Second, time.Second, always},
		"when the function's end cuts off a poll":        {3 * time.Second, time.Hour, 3*time.Second - time.Second/3, 1},
		"after the first poll, without time for another": {time.Second, time.Hour, 0, always},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				store := &timedStore{answered: c.answers}
				h := store.handler("wait-promise")
				h.Timeout = time.Minute
				ctx, cancel := context.WithTimeout(t.Context(), c.functions)
				defer cancel()
				p := keyHolder(tenant, promise.ScopeRead)
				p.ExpiresAt = time.Now().Add(c.credentials)
				event := withAuthorizer(t, httpEvent(t, "GET", tenant, "id:"+promiseID, "waitSeconds=25", ""), p.Texts())
				begun := time.Now()
				got, err := h.Invoke(ctx, event)
				require.NoError(t, err)
				require.Contains(t, string(got), `\"state\":\"pending\"`)
				require.Equal(t, c.want, time.Since(begun))
			})
		})
	}
}

// If too many calls were counted at the same time, a call among them ends about a second later, and its count ends.
func TestABurstOfWaitsEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store := &timedStore{answered: always, endsEarly: true}
		begun := time.Now()
		got, err := store.handler("wait-promise").Invoke(t.Context(), withAuthorizer(t, httpEvent(t, "GET", tenant, "id:"+promiseID, "waitSeconds=25", ""), keyHolder(tenant, promise.ScopeRead).Texts()))
		require.NoError(t, err)
		require.Equal(t, "5", decodeResponse(t, got).Headers["retry-after"])
		require.Contains(t, string(got), `\"state\":\"pending\"`)
		require.Equal(t, 7*150*time.Millisecond, time.Since(begun))
		require.Equal(t, []int{1, 1}, []int{store.counted, store.ended})
	})
}

// The time that the authorizer took is part of the call's time, and the operation gets the rest.
func TestACallsTime(t *testing.T) {
	t.Parallel()
	for _, of := range []struct{ function, query string }{{"resolve", ""}, {"get-promise", ""}, {"wait-promise", "waitSeconds=20"}} {
		for spent, want := range map[time.Duration]time.Duration{
			0: 2 * time.Second, 500 * time.Millisecond: 1500 * time.Millisecond, 1500 * time.Millisecond: 500 * time.Millisecond,
			10 * time.Second: 500 * time.Millisecond, time.Hour: 2 * time.Second, -time.Minute: 2 * time.Second,
		} {
			t.Run(fmt.Sprintf("%s?%s after %v", of.function, of.query, spent), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					event := httpEvent(t, "POST", tenant, "id:"+promiseID, of.query, `{"value":1}`)
					event = bytes.Replace(event, []byte(`"requestContext":{`),
						fmt.Appendf(nil, `"requestContext":{"timeEpoch":%d,`, time.Now().Add(-spent).UnixMilli()), 1)
					begun := time.Now()
					got, err := (&timedStore{}).handler(of.function).Invoke(t.Context(), event)
					require.NoError(t, err)
					requireProblem(t, 503, "unavailable", decodeResponse(t, got))
					require.Equal(t, want, time.Since(begun))
				})
			})
		}
	}
}
