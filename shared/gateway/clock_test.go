package gateway_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/gateway"
	"github.com/flovyn/promises/shared/promise"
)

// clockwork is a store for tests whose clock is synctest's: of one promise, which somebody settles at a time.
type clockwork struct {
	gateway.Store
	settledAt time.Time // zero: never
	answers   int       // how many looks are answered; the later ones wait until they are given up
	looks     int

	full, away     bool // BeginWait counts no call, or fails
	burst          bool // KeepWait ends each call
	counted, ended int
	longest        time.Duration // what BeginWait was asked for last
}

func (c *clockwork) BeginWait(_ context.Context, _ string, _ uuid.UUID, longest time.Duration, _ int) (bool, error) {
	if c.away {
		return false, &promise.Error{Code: promise.CodeUnavailable, Detail: "read-only"}
	}
	if !c.full {
		c.counted++
	}
	c.longest = longest
	return !c.full, nil
}

func (c *clockwork) KeepWait(context.Context, string, uuid.UUID, int) (bool, error) {
	return !c.burst, nil
}

func (c *clockwork) EndWait(ctx context.Context, _ string, _ uuid.UUID) error {
	c.ended++
	return ctx.Err()
}

func (c *clockwork) look(ctx context.Context) (settled bool, err error) {
	if c.looks++; c.looks > c.answers {
		<-ctx.Done()
		return false, &promise.Error{Code: promise.CodeUnavailable, Detail: "away", Cause: ctx.Err()}
	}
	return !c.settledAt.IsZero() && !time.Now().Before(c.settledAt), nil
}

func (c *clockwork) Get(ctx context.Context, _ string, _ promise.Identifier) (promise.Promise, error) {
	settled, err := c.look(ctx)
	p := promise.Promise{ID: uuid.MustParse(promiseID), Name: "payment", State: promise.Pending}
	if settled {
		p.State, p.Value = promise.Resolved, []byte("1")
	}
	return p, err
}

func (c *clockwork) Settle(ctx context.Context, _ string, _ promise.Identifier, _ promise.SettleRequest) (promise.SettleResult, error) {
	_, err := c.look(ctx)
	return promise.SettleResult{PromiseID: uuid.MustParse(promiseID), State: promise.Resolved, Outcome: promise.OutcomeSettled}, err
}

func (c *clockwork) ListEvents(ctx context.Context, _ string, _ uuid.UUID, after int32, _ int) ([]promise.Event, error) {
	settled, err := c.look(ctx)
	if !settled || after > 1 {
		return nil, err
	}
	by := promise.SettleRequest{Result: promise.Result{State: promise.Resolved, Value: []byte("1")}, By: promise.By{Kind: promise.KindDirect}}
	return []promise.Event{{SequenceNumber: 2, Type: promise.EventResolved, PromiseID: uuid.MustParse(promiseID), Settlement: &by}}, err
}

func (c *clockwork) handler(function string) *gateway.Handler {
	return &gateway.Handler{
		Operation: operations[function], Store: c, MaxValueBytes: 1 << 20, Timeout: 2 * time.Second,
		Log: slog.New(slog.NewTextHandler(io.Discard, nil)), Metrics: counts{},
	}
}

const always = 1 << 30

// A wait is answered at the look after the settlement, and what is settled is not waited for.
func TestAWaitIsAnsweredSoon(t *testing.T) {
	t.Parallel()
	for function, payload := range map[string]string{
		"wait-promise": named + `,"waitSeconds":25}`,
		"wait-events":  `{"tenant":"demo","workflowExecutionId":"` + workflowID + `","after":1,"waitSeconds":25}`,
	} {
		for _, after := range []time.Duration{0, time.Millisecond, 1010 * time.Millisecond, 24900 * time.Millisecond} {
			t.Run(fmt.Sprint(function, after), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					begun := time.Now()
					c := &clockwork{settledAt: begun.Add(after), answers: always}
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

// A wait ends, with what is so then, when its time is over, its function's, or that of the credential that began it.
func TestAWaitEnds(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		functions, credentials, want time.Duration
		answers                      int
	}{
		"with its own time":                    {time.Minute, time.Hour, 25 * time.Second, always},
		"before the function":                  {3 * time.Second, time.Hour, 2 * time.Second, always},
		"with the credential":                  {time.Minute, time.Second, time.Second, always},
		"with a look that cannot end in time":  {3 * time.Second, time.Hour, 3*time.Second - time.Second/3, 1},
		"with the first look, where none fits": {time.Second, time.Hour, 0, always},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				store := &clockwork{answers: c.answers}
				h := store.handler("wait-promise")
				h.Timeout = time.Minute
				ctx, cancel := context.WithTimeout(t.Context(), c.functions)
				defer cancel()
				p := holder(tenant, promise.ScopeRead)
				p.ExpiresAt = time.Now().Add(c.credentials)
				event := as(t, httpEvent(t, "GET", tenant, "id:"+promiseID, "waitSeconds=25", ""), p.Texts())
				begun := time.Now()
				got, err := h.Invoke(ctx, event)
				require.NoError(t, err)
				require.Contains(t, string(got), `\"state\":\"pending\"`)
				require.Equal(t, c.want, time.Since(begun))
			})
		})
	}
}

// A call that was counted beside too many others ends about a second later, and is counted no more.
func TestABurstOfWaitsEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store := &clockwork{answers: always, burst: true}
		begun := time.Now()
		got, err := store.handler("wait-promise").Invoke(t.Context(), as(t, httpEvent(t, "GET", tenant, "id:"+promiseID, "waitSeconds=25", ""), holder(tenant, promise.ScopeRead).Texts()))
		require.NoError(t, err)
		require.Equal(t, "5", decodeResponse(t, got).Headers["retry-after"])
		require.Contains(t, string(got), `\"state\":\"pending\"`)
		require.Equal(t, 7*150*time.Millisecond, time.Since(begun))
		require.Equal(t, []int{1, 1}, []int{store.counted, store.ended})
	})
}

// A caller waits for the authorizer, too: what that took is not there for the operation any more.
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
					got, err := (&clockwork{}).handler(of.function).Invoke(t.Context(), event)
					require.NoError(t, err)
					requireProblem(t, 503, "unavailable", decodeResponse(t, got))
					require.Equal(t, want, time.Since(begun))
				})
			})
		}
	}
}
