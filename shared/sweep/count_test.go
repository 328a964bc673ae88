package sweep_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/promise"
)

// The subtests run in order on one database.
func TestTheSweepCounts(t *testing.T) {
	t.Parallel()
	s := setUp(t)
	ctx := t.Context()
	_, err := s.repo.SetLimits(ctx, tenant, map[string]*int64{promise.LimitPending: new(int64(1))})
	require.NoError(t, err)
	a, err := s.repo.Create(ctx, tenant, promise.Draft{WorkflowExecutionID: uuid.New(), Name: "a"})
	require.NoError(t, err)
	create := func() error {
		_, err := s.repo.Create(ctx, tenant, promise.Draft{WorkflowExecutionID: uuid.New(), Name: "b"})
		return err
	}
	t.Run("Once marks a full tenant, and logs it", func(t *testing.T) {
		_, err := s.sweeper.Once(ctx)
		require.NoError(t, err)
		require.Equal(t, promise.CodeQuotaExceeded, promise.AsError(create()).Code)
		require.Contains(t, s.log.String(), `"tenant":"acme"`)
		require.Contains(t, s.log.String(), `"pendingFull":true`)
	})
	t.Run("Run unmarks a tenant that is not full, and marks it again", func(t *testing.T) {
		_, err := s.repo.Settle(ctx, tenant, promise.ByID(a.Promise.ID), promise.SettleRequest{
			Result: promise.Result{State: promise.Resolved, Value: []byte("1")}, By: promise.By{Kind: promise.KindDirect},
		})
		require.NoError(t, err)
		run, stop := context.WithCancel(ctx)
		done := make(chan error, 1)
		go func() {
			_, err := s.sweeper.Run(run, time.Hour)
			done <- err
		}()
		require.Eventually(t, func() bool { return create() == nil }, time.Minute, 10*time.Millisecond)
		require.Eventually(t, func() bool { return create() != nil }, time.Minute, 10*time.Millisecond)
		stop()
		require.NoError(t, <-done)
	})
}

// counted is a Store whose counts take time in proportion to a tenant's rows.
type counted struct {
	clockwork
	rows   map[uuid.UUID]int // of each tenant
	stores map[uuid.UUID][]time.Time
	busy   time.Duration // in CountMore
}

func (c *counted) Uncounted(context.Context) (counts []promise.Count, err error) {
	for id := range c.rows {
		counts = append(counts, promise.Count{TenantID: id})
	}
	return counts, nil
}

func (c *counted) CountMore(_ context.Context, counts []promise.Count, limit int) error {
	for i := range counts {
		n := &counts[i]
		more := min(limit, c.rows[n.TenantID]-int(n.Pending))
		n.Pending += int64(more)
		n.PendingDone, n.EarlyDone = more < limit, true
		took := time.Duration(more) * time.Microsecond
		c.busy += took
		time.Sleep(took)
	}
	return nil
}

func (c *counted) StoreCounts(_ context.Context, counts []promise.Count) ([]promise.Full, error) {
	for _, n := range counts {
		c.stores[n.TenantID] = append(c.stores[n.TenantID], time.Now())
	}
	return nil, nil
}

// One run of five minutes, with a fake clock, counts a huge tenant and many small ones.
func TestCountingLeavesRoom(t *testing.T) {
	t.Parallel()
	huge, small := uuid.New(), uuid.New()
	c := &counted{rows: map[uuid.UUID]int{huge: 2_000_000, small: 10}, stores: map[uuid.UUID][]time.Time{}}
	synctest.Test(t, func(t *testing.T) {
		for range 250 {
			c.rows[uuid.New()] = 1
		}
		s := c.sweeper()
		s.Store = c
		_, err := s.Run(t.Context(), 5*time.Minute)
		require.NoError(t, err)
	})
	t.Run("the database is mostly idle", func(t *testing.T) {
		require.Less(t, c.busy, 5*time.Minute/12)
	})
	t.Run("a huge tenant is counted at most every 30 s", func(t *testing.T) {
		require.Greater(t, len(c.stores[huge]), 5)
		for i, at := range c.stores[huge][1:] {
			require.GreaterOrEqual(t, at.Sub(c.stores[huge][i]), 30*time.Second, "20 times 2 s would be more")
		}
	})
	t.Run("a small tenant is counted every few seconds", func(t *testing.T) {
		for i, at := range c.stores[small][1:] {
			require.GreaterOrEqual(t, at.Sub(c.stores[small][i]), 3*time.Second)
			require.Less(t, at.Sub(c.stores[small][i]), 15*time.Second)
		}
		require.Greater(t, len(c.stores[small]), 40)
	})
}
