package sweep_test

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/promise"
	"github.com/flovyn/promises/shared/sweep"
)

// clockwork is a store for tests whose clock is synctest's. Each of its batches takes some time.
type clockwork struct {
	mu        sync.Mutex
	takes     time.Duration
	fails     bool
	failsOver int   // fails each batch of deadlines that is larger, if not 0
	limits    []int // of the batches of deadlines
	deadlines []time.Time
	late      []time.Duration // of each deadline that was recorded
	looks     []time.Time     // when each look for deadlines began
	deletions int
	values    map[string][]float64
}

func (c *clockwork) sweeper() *sweep.Sweeper {
	c.values = map[string][]float64{}
	return &sweep.Sweeper{Store: c, Metrics: c, Log: slog.New(slog.DiscardHandler), Retention: day}
}

func (c *clockwork) Count(name string, n int64) { c.Gauge(name, float64(n), "Count") }

func (c *clockwork) Gauge(name string, value float64, _ string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.values[name] = append(c.values[name], value)
}

func (c *clockwork) batch(ctx context.Context) error {
	select {
	case <-time.After(c.takes):
	case <-ctx.Done():
		return ctx.Err()
	}
	if c.fails {
		return errors.New("broken")
	}
	return nil
}

func (*clockwork) Uncounted(context.Context) ([]promise.Count, error) { return nil, nil }

func (*clockwork) CountMore(context.Context, []promise.Count, int) error { return nil }

func (*clockwork) StoreCounts(context.Context, []promise.Count) ([]promise.Full, error) {
	return nil, nil
}

func (c *clockwork) Expire(ctx context.Context, limit int) (e promise.ExpireResult, err error) {
	c.mu.Lock()
	c.looks = append(c.looks, time.Now())
	c.limits = append(c.limits, limit)
	tooLarge := c.failsOver > 0 && limit > c.failsOver
	c.mu.Unlock()
	if err := c.batch(ctx); err != nil {
		return e, err
	}
	if tooLarge {
		return e, errors.New("too large")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for e.Expired < limit && len(c.deadlines) > 0 {
		late := time.Since(c.deadlines[0])
		if late < 0 {
			e.Next = new(-late)
			break
		}
		e.Expired++
		e.Lateness = max(e.Lateness, late)
		c.late = append(c.late, late)
		c.deadlines = c.deadlines[1:]
	}
	e.More = e.Expired == limit
	return e, nil
}

func (c *clockwork) ExpireWorkflow(ctx context.Context, _ uuid.UUID, _ int) (promise.ExpireResult, error) {
	return promise.ExpireResult{}, c.batch(ctx)
}

func (c *clockwork) ExpireIdempotencyKeys(ctx context.Context, limit int) (promise.ExpireKeysResult, error) {
	if err := c.batch(ctx); err != nil {
		return promise.ExpireKeysResult{}, err
	}
	return promise.ExpireKeysResult{Examined: limit, Released: limit}, nil // there is always more
}

func (c *clockwork) DeleteSettled(ctx context.Context, _ time.Duration, _ int) (promise.Deleted, error) {
	c.mu.Lock()
	c.deletions++
	c.mu.Unlock()
	return promise.Deleted{}, c.batch(ctx)
}

// A deadline is recorded within a second, also one that a caller adds between two looks, and while deletions have no end.
func TestDeadlinesAreRecordedInTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := &clockwork{takes: 50 * time.Millisecond}
		const n = 600
		go func() {
			for i := range n {
				c.mu.Lock()
				c.deadlines = append(c.deadlines, time.Now().Add(time.Duration(i%7)*10*time.Millisecond))
				c.mu.Unlock()
				time.Sleep(97 * time.Millisecond)
			}
		}()
		report, err := c.sweeper().Run(t.Context(), time.Minute)
		require.NoError(t, err)
		require.Equal(t, n, report.Expired)
		require.Len(t, c.late, n)
		for _, late := range c.late {
			require.Less(t, late, time.Second)
		}
		require.Len(t, c.values[sweep.MetricOldestOverdue], 5, "each 15 s, and at the end: not at each look")
		require.Positive(t, report.KeysDeleted)
	})
}

// A run ends with its own time, with a second of its caller's left, or with its caller.
func TestItEndsInTime(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		callers, own, takes, want time.Duration
	}{
		"its own time":              {time.Hour, 200 * time.Millisecond, 0, 200 * time.Millisecond},
		"a batch beyond its end":    {time.Hour, 200 * time.Millisecond, time.Minute, 700 * time.Millisecond},
		"its caller's time":         {10 * time.Second, time.Minute, 0, 8500 * time.Millisecond},
		"a batch beyond its caller": {10 * time.Second, time.Minute, time.Hour, 9 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				store := &clockwork{takes: c.takes}
				ctx, cancel := context.WithTimeout(t.Context(), c.callers)
				defer cancel()
				begun := time.Now()
				_, err := store.sweeper().Run(ctx, c.own)
				if c.takes < time.Hour {
					require.NoError(t, err)
				}
				require.Equal(t, c.want, time.Since(begun))
			})
		})
	}
	t.Run("a caller who leaves", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			store := &clockwork{takes: 30 * time.Millisecond}
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(200*time.Millisecond, cancel)
			begun := time.Now()
			s := store.sweeper()
			_, err := s.Run(ctx, time.Minute)
			require.NoError(t, err)
			require.Equal(t, 200*time.Millisecond, time.Since(begun))
			looked := len(store.looks)
			_, err = s.Once(ctx)
			require.NoError(t, err)
			require.Len(t, store.looks, looked)
			require.Empty(t, store.values[sweep.MetricSweepErrors])
		})
	})
}

// Work that fails is tried again, and not at once.
func TestItDoesNotSpin(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := &clockwork{fails: true}
		_, err := c.sweeper().Run(t.Context(), 24900*time.Millisecond)
		require.ErrorContains(t, err, "record deadlines: failed 50 times, first: broken")
		require.ErrorContains(t, err, "delete settled promises: failed 3 times, first: broken")
		require.Empty(t, c.values[sweep.MetricOldestOverdue], "nobody knows")
	})
}

// A batch that the database cannot do is halved until it can, down to one deadline, and doubled again after each success.
func TestABatchThatFailsIsHalved(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := &clockwork{failsOver: 200, takes: time.Millisecond}
		for range 500 {
			c.deadlines = append(c.deadlines, time.Now())
		}
		report, err := c.sweeper().Run(t.Context(), 10*time.Second)
		require.ErrorContains(t, err, "too large")
		require.Equal(t, 500, report.Expired)
		require.Equal(t, []int{1000, 500, 250, 125, 250, 125, 250, 125, 250, 125, 250, 125}, c.limits[:12])
	})
	synctest.Test(t, func(t *testing.T) {
		c := &clockwork{failsOver: 1, takes: time.Millisecond}
		time.AfterFunc(7*time.Second, func() {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.failsOver = 0
		})
		_, err := c.sweeper().Run(t.Context(), 14*time.Second)
		require.ErrorContains(t, err, "too large")
		require.Equal(t, []int{1000, 500, 250, 125, 62, 31, 15, 7, 3, 1, 2, 1}, c.limits[:12])
		require.Equal(t, 1000, c.limits[len(c.limits)-1])
	})
}
