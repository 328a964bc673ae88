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

// Functions that are called in turn, by more callers than there are places, keep
// their environments.
func TestFullHouse(t *testing.T) {
	t.Parallel()
	const places, callers, each = 4, 12, 20
	const keeps = 200 * time.Millisecond // who has waited for longer, on a busy machine, may take another's place
	var cold, slow atomic.Int32
	s := start(t, lambda.Options{MaxEnvironments: places, Report: func(r lambda.Result) {
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
					if time.Since(begun) > keeps {
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
	require.LessOrEqual(t, cold.Load(), 2*places+slow.Load())
}

// A function that has become busy gets the places that others do not need any more.
func TestPlacesGoToTheBusy(t *testing.T) {
	t.Parallel()
	const places = 4
	s := start(t, lambda.Options{MaxEnvironments: places}, lambda.Function{}, lambda.Function{Name: "other"})
	at := func(name string, callers int) (cold int32) {
		var n atomic.Int32
		var wg sync.WaitGroup
		for range callers {
			wg.Go(func() {
				for begun := time.Now(); n.Load() < places && time.Since(begun) < time.Minute; {
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
	require.Equal(t, int32(places), at("other", places))
	time.Sleep(time.Second)
	require.Equal(t, int32(places), at("odd", 4*places))
}

// A function at long work leaves room for the others.
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

// An invocation does not wait for environments that are all at long work.
func TestLongWorkIsNotWaitedFor(t *testing.T) {
	t.Parallel()
	s := start(t, lambda.Options{MaxEnvironments: 2}, lambda.Function{}, lambda.Function{Name: "other"})
	_, err := s.Invoke(t.Context(), "other", lambda.Request{})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go s.Invoke(ctx, "odd", lambda.Request{Payload: []byte(`{"do":"sleep","ms":20000}`)}) //nolint:errcheck // it is left
	require.Eventually(t, func() bool {
		r, err := s.Invoke(t.Context(), "odd", lambda.Request{})
		require.NoError(t, err, "the other function's idle environment makes room")
		return r.Cold
	}, time.Minute, time.Millisecond)
}
