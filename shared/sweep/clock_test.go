package sweep_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/sweep"
)

// A deadline is recorded within a second, even if a caller adds it between two passes, and while deletions never end.
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
		require.Len(t, c.values[sweep.MetricOldestOverdue], 5, "each 15 s and at the end, not after each pass")
		require.Positive(t, report.KeysDeleted)
	})
}

// A run ends after its own time, a second before its caller's deadline, or when its caller cancels it.
func TestRunEndsInTime(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		caller, own, takes, want time.Duration
	}{
		"after its own time":                    {time.Hour, 200 * time.Millisecond, 0, 200 * time.Millisecond},
		"a batch exceeds its time":              {time.Hour, 200 * time.Millisecond, time.Minute, 700 * time.Millisecond},
		"before its caller's deadline":          {10 * time.Second, time.Minute, 0, 8500 * time.Millisecond},
		"a batch exceeds the caller's deadline": {10 * time.Second, time.Minute, time.Hour, 9 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				store := &clockwork{takes: c.takes}
				ctx, cancel := context.WithTimeout(t.Context(), c.caller)
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
	t.Run("its caller cancels it", func(t *testing.T) {
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
			passes := len(store.passes)
			_, err = s.Once(ctx)
			require.NoError(t, err)
			require.Len(t, store.passes, passes)
			require.Empty(t, store.values[sweep.MetricSweepErrors])
		})
	})
}

func TestFailedWorkIsRepeatedAfterAPause(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := &clockwork{fails: true}
		_, err := c.sweeper().Run(t.Context(), 24900*time.Millisecond)
		require.ErrorContains(t, err, "record deadlines: failed 50 times, first: broken")
		require.ErrorContains(t, err, "delete settled promises: failed 3 times, first: broken")
		require.Empty(t, c.values[sweep.MetricOldestOverdue], "no pass has succeeded")
	})
}

func TestABatchThatFailsIsHalved(t *testing.T) {
	t.Parallel()
	t.Run("until it succeeds, and doubled after each success", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			c := &clockwork{maxBatch: 200, takes: time.Millisecond}
			for range 500 {
				c.deadlines = append(c.deadlines, time.Now())
			}
			report, err := c.sweeper().Run(t.Context(), 10*time.Second)
			require.ErrorContains(t, err, "too large")
			require.Equal(t, 500, report.Expired)
			require.Equal(t, []int{1000, 500, 250, 125, 250, 125, 250, 125, 250, 125, 250, 125}, c.limits[:12])
		})
	})
	t.Run("down to one deadline", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			c := &clockwork{maxBatch: 1, takes: time.Millisecond}
			time.AfterFunc(7*time.Second, func() {
				c.mu.Lock()
				defer c.mu.Unlock()
				c.maxBatch = 0
			})
			_, err := c.sweeper().Run(t.Context(), 14*time.Second)
			require.ErrorContains(t, err, "too large")
			require.Equal(t, []int{1000, 500, 250, 125, 62, 31, 15, 7, 3, 1, 2, 1}, c.limits[:12])
			require.Equal(t, 1000, c.limits[len(c.limits)-1])
		})
	})
}
