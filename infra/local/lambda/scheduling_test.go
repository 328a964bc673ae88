package lambda_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/infra/local/lambda"
)

// If more callers than MaxEnvironments invoke two functions in turn, both functions keep their environments.
func TestMaxEnvironments_MoreCallers_EnvironmentsStay(t *testing.T) {
	t.Parallel()
	const environments, callers, each = 4, 12, 20
	const longWait = 200 * time.Millisecond // on a busy machine, an invocation that waited for longer may replace an environment
	var cold, slow atomic.Int32
	s := start(t, lambda.Options{MaxEnvironments: environments, Report: func(r lambda.Result) {
		if r.Cold {
			cold.Add(1)
		}
	}}, lambda.Function{}, lambda.Function{Name: "other"})
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			for range each {
				for _, name := range []string{"odd", "other"} {
					begun := time.Now()
					r, err := s.Invoke(t.Context(), name, lambda.Request{Payload: []byte(`{"do":"sleep","ms":5}`)})
					if time.Since(begun) > longWait {
						slow.Add(1)
					}
					if !errors.Is(err, lambda.ErrThrottled) && assert.NoError(t, err) {
						assert.Empty(t, r.ErrorType)
					}
				}
			}
		})
	}
	wg.Wait()
	require.LessOrEqual(t, cold.Load(), 2*environments+slow.Load())
}

// New environments of a function that becomes busy replace another function's idle ones.
func TestBusyFunctionReplacesIdleEnvironments(t *testing.T) {
	t.Parallel()
	const environments = 4
	s := start(t, lambda.Options{MaxEnvironments: environments}, lambda.Function{}, lambda.Function{Name: "other"})
	coldStarts := func(name string, callers int) (cold int32) {
		var n atomic.Int32
		var wg sync.WaitGroup
		for range callers {
			wg.Go(func() {
				for begun := time.Now(); n.Load() < environments && time.Since(begun) < time.Minute; {
					r, err := s.Invoke(t.Context(), name, lambda.Request{Payload: []byte(`{"do":"sleep","ms":20}`)})
					if !errors.Is(err, lambda.ErrThrottled) && assert.NoError(t, err) && r.Cold {
						n.Add(1)
					}
				}
			})
		}
		wg.Wait()
		return n.Load()
	}
	require.Equal(t, int32(environments), coldStarts("other", environments))
	time.Sleep(time.Second)
	require.Equal(t, int32(environments), coldStarts("odd", 4*environments))
}

// Concurrency bounds the environments of a function with long invocations, so that other functions can run.
func TestConcurrency(t *testing.T) {
	t.Parallel()
	s := start(t, lambda.Options{MaxEnvironments: 3}, lambda.Function{Concurrency: 2}, lambda.Function{Name: "other"})
	ctx, cancel := context.WithCancel(t.Context())
	var throttled atomic.Int32
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			_, err := s.Invoke(ctx, "odd", lambda.Request{Payload: []byte(`{"do":"sleep","ms":20000}`)})
			if errors.Is(err, lambda.ErrThrottled) {
				throttled.Add(1)
				return
			}
			assert.ErrorIs(t, err, context.Canceled)
		})
	}
	require.Eventually(t, func() bool { return throttled.Load() == 1 }, time.Minute, time.Millisecond)
	for range 3 {
		_, err := s.Invoke(t.Context(), "other", lambda.Request{})
		require.NoError(t, err)
	}
	cancel()
	wg.Wait()
	require.Equal(t, int32(1), throttled.Load())
}

// If all environments of a function are busy for long, its next invocation replaces another function's idle environment.
func TestLongInvocations_NextReplacesAnIdleEnvironment(t *testing.T) {
	t.Parallel()
	s := start(t, lambda.Options{MaxEnvironments: 2}, lambda.Function{}, lambda.Function{Name: "other"})
	_, err := s.Invoke(t.Context(), "other", lambda.Request{})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go s.Invoke(ctx, "odd", lambda.Request{Payload: []byte(`{"do":"sleep","ms":20000}`)}) //nolint:errcheck // cancel ends it
	require.Eventually(t, func() bool {
		r, err := s.Invoke(t.Context(), "odd", lambda.Request{})
		require.NoError(t, err, "it replaces the other function's idle environment")
		return r.Cold
	}, time.Minute, time.Millisecond)
}
