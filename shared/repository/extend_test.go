package repository_test

import (
	"context"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/dbtest"
	"github.com/flovyn/promises/shared/promise"
	"github.com/flovyn/promises/shared/repository"
)

func TestExtend(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	d := withKey(draft("payment"), "k", time.Hour)
	d.Timeout = new(time.Hour)
	d.OnTimeout = &promise.Result{State: promise.Resolved, Value: []byte(`"nobody came"`)}
	p := create(t, r, d)
	later, past := p.TimeoutAt.Add(time.Hour), time.Now().Add(-time.Minute)
	for _, c := range []struct {
		name string
		to   promise.Deadline
		want time.Time
	}{
		{"a later deadline", promise.Deadline{At: &later}, later},
		{"the same deadline", promise.Deadline{At: &later}, later},
		{"a sooner deadline", promise.Deadline{At: p.TimeoutAt}, *p.TimeoutAt},
		{"a deadline from now", promise.Deadline{Timeout: new(90 * time.Minute)}, time.Time{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			want := p
			got := extend(t, r, byKey(t, "k"), c.to)
			want.TimeoutAt = got.TimeoutAt
			require.Equal(t, want, got)
			if !c.want.IsZero() {
				require.True(t, c.want.Equal(*got.TimeoutAt))
			}
		})
	}
	t.Run("each change adds one event, the same deadline none", func(t *testing.T) {
		require.Equal(t, "1 PROMISE_CREATED\n2 PROMISE_EXTENDED\n3 PROMISE_EXTENDED\n4 PROMISE_EXTENDED",
			events(t, db, p.WorkflowExecutionID))
		log, err := r.ListEvents(t.Context(), tenant, p.WorkflowExecutionID, 1, 10)
		require.NoError(t, err)
		require.True(t, later.Equal(*log[0].TimeoutAt))
		require.True(t, p.TimeoutAt.Equal(*log[1].TimeoutAt))
		require.Equal(t, 90*time.Minute, log[2].TimeoutAt.Sub(log[2].CreatedAt))
		for _, e := range log {
			require.Equal(t, p.ID, e.PromiseID)
			require.Nil(t, e.Settlement)
		}
	})
	t.Run("a deadline in the past settles the promise", func(t *testing.T) {
		ended := extend(t, r, promise.ByID(p.ID), promise.Deadline{At: &past})
		require.Equal(t, promise.Resolved, ended.State)
		require.Equal(t, `"nobody came"`, string(ended.Value))
		require.Equal(t, ended.TimeoutAt, ended.ResolvedAt)
		_, err := r.Extend(t.Context(), tenant, promise.ByID(p.ID), promise.Deadline{At: &later})
		require.Equal(t, promise.SettleResult{PromiseID: p.ID, State: promise.Resolved, Outcome: promise.OutcomeTimedOut},
			*requireCode(t, promise.CodeTimedOut, err).SettleResult)
		requireDense(t, db)
	})
}

func TestExtendSetsTheFirstDeadline(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	at := time.Now().Add(time.Hour)
	for name, d := range map[string]promise.Deadline{
		"a moment": {At: &at}, "from now": {Timeout: new(time.Hour)}, "at once": {Timeout: new(time.Duration(0))},
	} {
		t.Run(name, func(t *testing.T) {
			p := create(t, r, draft(name))
			require.Nil(t, p.TimeoutAt)
			require.NotNil(t, extend(t, r, promise.ByID(p.ID), d).TimeoutAt)
			require.Equal(t, "1 PROMISE_CREATED\n2 PROMISE_EXTENDED", events(t, db, p.WorkflowExecutionID))
		})
	}
}

func TestASettledPromiseIsNotExtended(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	recorded := createOverdue(t, r, tenant, draft("recorded"), time.Hour)
	_, err := r.Expire(t.Context(), 10)
	require.NoError(t, err)
	settled := func(name string, s promise.SettleRequest) promise.Promise {
		p := create(t, r, draft(name))
		_, err := r.Settle(t.Context(), tenant, promise.ByID(p.ID), s)
		require.NoError(t, err)
		return p
	}
	for _, c := range []struct {
		name  string
		p     promise.Promise
		code  promise.Code
		state promise.State
	}{
		{"resolved", settled("resolved", resolved([]byte("1"))), promise.CodeConflict, promise.Resolved},
		{"rejected", settled("rejected", rejected("no")), promise.CodeConflict, promise.Rejected},
		{"cancelled", settled("cancelled", cancelled("")), promise.CodeCancelled, promise.Cancelled},
		{"its deadline has passed", createOverdue(t, r, tenant, draft("overdue"), time.Hour), promise.CodeTimedOut, promise.TimedOut},
		{"its deadline is recorded", recorded, promise.CodeTimedOut, promise.TimedOut},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := events(t, db, c.p.WorkflowExecutionID)
			for _, d := range []promise.Deadline{{Timeout: new(time.Hour)}, {At: new(time.Now().Add(time.Hour))}, {At: c.p.TimeoutAt, Timeout: new(time.Hour)}} {
				_, err := r.Extend(t.Context(), tenant, promise.ByID(c.p.ID), d)
				result := requireCode(t, c.code, err).SettleResult
				require.Equal(t, c.p.ID, result.PromiseID)
				require.Equal(t, c.state, result.State)
			}
			require.Equal(t, before, events(t, db, c.p.WorkflowExecutionID))
		})
	}
}

func TestExtendOfAnUnknownPromise(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	db.Tenant(t, "other")
	p := create(t, r, draft("pending"))
	for _, c := range []struct {
		name, tenant string
		id           uuid.UUID
	}{
		{"another tenant's promise", "other", p.ID}, {"an unknown tenant", "nobody", p.ID}, {"an unknown promise", tenant, uuid.New()},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := r.Extend(t.Context(), c.tenant, promise.ByID(c.id), promise.Deadline{Timeout: new(time.Hour)})
			requireNotFound(t, err)
		})
	}
}

// Concurrent calls that set the same deadline add one event. Calls that set different deadlines add one event each. A call that
// comes after a settlement fails, and its error has the stored settlement.
func TestConcurrentExtensions(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	const extenders = 8
	ctx := context.Background()
	same := time.Now().Add(time.Hour)
	for round := range 30 {
		p := create(t, r, draft("contended"))
		q := create(t, r, promise.Draft{WorkflowExecutionID: p.WorkflowExecutionID, Name: "raced"})
		var wg sync.WaitGroup
		var settleErr error
		errs, raced := make([]error, extenders), make([]error, extenders)
		for n := range extenders {
			wg.Go(func() {
				_, errs[n] = r.Extend(ctx, tenant, promise.ByID(p.ID), promise.Deadline{At: &same})
				_, raced[n] = r.Extend(ctx, tenant, promise.ByID(q.ID), promise.Deadline{Timeout: new(time.Duration(n+1) * time.Hour)})
			})
		}
		wg.Go(func() { _, settleErr = r.Settle(ctx, tenant, promise.ByID(q.ID), resolved([]byte("1"))) })
		wg.Wait()
		require.NoError(t, settleErr)
		extended := 0
		for n := range extenders {
			require.NoError(t, errs[n])
			if raced[n] == nil {
				extended++
			} else {
				require.Equal(t, q.ID, requireCode(t, promise.CodeConflict, raced[n]).SettleResult.PromiseID)
			}
		}
		log, err := r.ListEvents(ctx, tenant, p.WorkflowExecutionID, 2, 100)
		require.NoError(t, err)
		counts, last := map[uuid.UUID]int{}, map[uuid.UUID]promise.Event{}
		for _, e := range log {
			counts[e.PromiseID]++
			if e.Type == promise.EventExtended {
				require.NotEqual(t, promise.EventResolved, last[e.PromiseID].Type, "nothing follows a settlement")
			}
			last[e.PromiseID] = e
		}
		require.Equal(t, 1, counts[p.ID], "round %d", round)
		require.Equal(t, extended+1, counts[q.ID])
		require.Equal(t, promise.EventResolved, last[q.ID].Type)
		stored, err := r.Get(ctx, tenant, promise.ByID(p.ID))
		require.NoError(t, err)
		require.True(t, stored.TimeoutAt.Equal(*last[p.ID].TimeoutAt))
	}
	requireDense(t, db)
}

// A deadline passes while the transaction that moved it in time is still running. Every call then finds the promise pending.
func TestNoTimeoutIsReturnedBeforeAnExtensionInTime(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	ctx := t.Context()
	p, tx := extendedInTime(t, db)
	var wg sync.WaitGroup
	var read promise.Promise
	var page []promise.Promise
	var errs [3]error
	wg.Go(func() { read, errs[0] = r.Get(ctx, tenant, promise.ByID(p.ID)) })
	wg.Go(func() { page, _, errs[1] = r.ListPromises(ctx, tenant, promise.Filter{}, 10) })
	wg.Go(func() {
		_, errs[2] = r.Extend(ctx, tenant, promise.ByID(p.ID), promise.Deadline{Timeout: new(2 * time.Hour)})
	})
	waitForLocks(t, db, 3, "workflow_execution", "await_settlements")
	require.NoError(t, tx.Commit(ctx))
	wg.Wait()
	for _, err := range errs {
		require.NoError(t, err)
	}
	require.Equal(t, promise.Pending, read.State)
	require.Equal(t, p.ID, page[0].ID)
	require.Equal(t, promise.Pending, page[0].State)
}

// settledInTime returns an open transaction that has settled a promise shortly before its deadline.
func settledInTime(t *testing.T, db *dbtest.DB, id uuid.UUID) pgx.Tx {
	t.Helper()
	return inTime(t, db, func(tx pgx.Tx, timeout time.Duration) bool {
		settled, err := repository.New(tx).Settle(t.Context(), tenant, promise.ByID(id), resolved([]byte("1")))
		require.NoError(t, err)
		if settled.Outcome != promise.OutcomeSettled { // the next try gets a later deadline
			db.Exec(t, "UPDATE promise SET timeout_at = CLOCK_TIMESTAMP() + 2 * $2::INTERVAL WHERE id = $1", id, timeout)
		}
		return settled.Outcome == promise.OutcomeSettled
	})
}

// A call waits for an extension, and the new deadline has passed too. A settlement may have been in time for the new deadline, so the
// call waits again.
func TestNoTimeoutIsReturnedBeforeASettlementInTimeForAnExtension(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	ctx := t.Context()
	for name, read := range map[string]func(*repository.Repository, promise.Promise) (promise.State, error){
		"get": func(r *repository.Repository, p promise.Promise) (promise.State, error) {
			p, err := r.Get(ctx, tenant, promise.ByID(p.ID))
			return p.State, err
		},
		"list": func(r *repository.Repository, p promise.Promise) (promise.State, error) {
			page, _, err := r.ListPromises(ctx, tenant, promise.Filter{WorkflowExecutionID: &p.WorkflowExecutionID}, 10)
			return page[0].State, err
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := createOverdue(t, r, tenant, draft(name), time.Hour)
			var settling pgx.Tx
			staged := &stagedDB{DB: db.Pool, beforeWait: func(n int) {
				switch n {
				case 1: // the extension that the call waits for
					db.Exec(t, "UPDATE promise SET timeout_at = CLOCK_TIMESTAMP() + INTERVAL '1 s' WHERE id = $1", p.ID)
				case 2:
					require.NoError(t, settling.Commit(t.Context()))
				}
			}, afterWait: func(n int) {
				if n == 1 { // the settlement is in time, and not committed when the new deadline passes
					settling = settledInTime(t, db, p.ID)
					db.Exec(t, "SELECT pg_sleep_until(timeout_at + INTERVAL '10 ms') FROM promise WHERE id = $1", p.ID)
				}
			}}
			state, err := read(repository.New(staged), p)
			require.NoError(t, err)
			require.Equal(t, promise.Resolved, state)
			require.Equal(t, 2, staged.waits)
		})
	}
}

// A settlement waits for an extension, whose deadline has passed too by then. Another settlement was in time for that deadline, so the
// first one waits for it, too.
func TestASettlementWaitsForASettlementInTimeForAnExtension(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	ctx := t.Context()
	const lock = "SELECT FROM workflow_execution WHERE id = $1 FOR NO KEY UPDATE"
	var p promise.Promise
	var late chan promise.SettleResult
	tx := inTime(t, db, func(tx pgx.Tx, timeout time.Duration) bool {
		p = createOverdue(t, r, tenant, draft(timeout.String()), time.Hour)
		extending, err := db.Pool.Begin(ctx)
		require.NoError(t, err)
		_, err = extending.Exec(ctx, lock, p.WorkflowExecutionID)
		require.NoError(t, err)
		locked := make(chan error, 1)
		go func() {
			_, err := tx.Exec(ctx, lock, p.WorkflowExecutionID)
			locked <- err
		}()
		waitForLocks(t, db, 1, "workflow_execution")
		late = make(chan promise.SettleResult, 1)
		go func() {
			got, err := r.Settle(context.WithoutCancel(ctx), tenant, promise.ByID(p.ID), rejected("late"))
			assert.NoError(t, err)
			late <- got
		}()
		waitForLocks(t, db, 1, "workflow_execution", "settle")
		_, err = extending.Exec(ctx, "UPDATE promise SET timeout_at = CLOCK_TIMESTAMP() + $2::INTERVAL WHERE id = $1", p.ID, timeout)
		require.NoError(t, err)
		require.NoError(t, extending.Commit(ctx))
		require.NoError(t, <-locked)
		got, err := repository.New(tx).Settle(ctx, tenant, promise.ByID(p.ID), resolved([]byte("1")))
		require.NoError(t, err)
		return got.Outcome == promise.OutcomeSettled
	})
	_, err := tx.Exec(ctx, "SELECT pg_sleep_until(timeout_at + INTERVAL '10 ms') FROM promise WHERE id = $1", p.ID)
	require.NoError(t, err)
	require.NoError(t, tx.Commit(ctx))
	require.Equal(t, promise.SettleResult{PromiseID: p.ID, State: promise.Resolved, Outcome: promise.OutcomeConflict}, <-late)
}

// Settlements that waited for the same extension race afterwards. One of them wins, and none fails.
func TestSettlementsThatWaitedForAnExtension(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	p, tx := extendedInTime(t, db)
	const calls = 5
	var outcomes [calls]promise.Outcome
	var wg sync.WaitGroup
	for n := range calls {
		wg.Go(func() {
			got, err := r.Settle(t.Context(), tenant, promise.ByID(p.ID), resolved([]byte(strconv.Itoa(n))))
			assert.NoError(t, err)
			outcomes[n] = got.Outcome
		})
	}
	waitForLocks(t, db, calls, "workflow_execution", "settle")
	require.NoError(t, tx.Commit(t.Context()))
	wg.Wait()
	won := 0
	for _, outcome := range outcomes {
		if outcome == promise.OutcomeSettled {
			won++
		} else {
			require.Equal(t, promise.OutcomeConflict, outcome)
		}
	}
	require.Equal(t, 1, won)
	requireDense(t, db)
}
