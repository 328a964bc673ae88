package repository_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/dbtest"
	"github.com/flovyn/promises/shared/promise"
	"github.com/flovyn/promises/shared/repository"
)

// extend moves a deadline, and wants the promise to have it then and ever after.
func extend(t testing.TB, r *repository.Repository, i promise.Identifier, d promise.Deadline) promise.Promise {
	t.Helper()
	p, err := r.Extend(t.Context(), tenant, i, d)
	require.NoError(t, err)
	stored, err := r.Get(t.Context(), tenant, i)
	require.NoError(t, err)
	require.Equal(t, p, stored)
	return p
}

func TestExtend(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	d := withKey(draft("payment"), "k", time.Hour)
	d.Timeout = new(time.Hour)
	d.OnTimeout = &promise.Result{State: promise.Resolved, Value: []byte(`"nobody came"`)}
	p := create(t, r, d)
	later := p.TimeoutAt.Add(time.Hour)
	for _, c := range []struct {
		name string
		to   promise.Deadline
		want time.Time
	}{
		{"later", promise.Deadline{At: &later}, later},
		{"the same", promise.Deadline{At: &later}, later},
		{"sooner", promise.Deadline{At: p.TimeoutAt}, *p.TimeoutAt},
		{"from now", promise.Deadline{Timeout: new(90 * time.Minute)}, time.Time{}},
	} {
		want := p
		got := extend(t, r, byKey(t, "k"), c.to)
		want.TimeoutAt = got.TimeoutAt
		require.Equal(t, want, got, c.name)
		if !c.want.IsZero() {
			require.True(t, c.want.Equal(*got.TimeoutAt), c.name)
		}
	}
	require.Equal(t, "1 PROMISE_CREATED\n2 PROMISE_EXTENDED\n3 PROMISE_EXTENDED\n4 PROMISE_EXTENDED",
		events(t, db, p.WorkflowExecutionID), "the same deadline is no event")
	log, err := r.ListEvents(t.Context(), tenant, p.WorkflowExecutionID, 1, 10)
	require.NoError(t, err)
	require.True(t, later.Equal(*log[0].TimeoutAt))
	require.True(t, p.TimeoutAt.Equal(*log[1].TimeoutAt))
	require.Equal(t, 90*time.Minute, log[2].TimeoutAt.Sub(log[2].CreatedAt))
	for _, e := range log {
		require.Equal(t, p.ID, e.PromiseID)
		require.Nil(t, e.Settlement)
	}

	past := time.Now().Add(-time.Minute)
	over := extend(t, r, promise.ByID(p.ID), promise.Deadline{At: &past})
	require.Equal(t, promise.Resolved, over.State)
	require.Equal(t, `"nobody came"`, string(over.Value))
	require.Equal(t, over.TimeoutAt, over.ResolvedAt)
	_, err = r.Extend(t.Context(), tenant, promise.ByID(p.ID), promise.Deadline{At: &later})
	require.Equal(t, promise.SettleResult{PromiseID: p.ID, State: promise.Resolved, Outcome: promise.OutcomeTimedOut},
		*requireCode(t, promise.CodeTimedOut, err).SettleResult)
	requireDense(t, db)
}

func TestTheFirstDeadline(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	at := time.Now().Add(time.Hour)
	for n, d := range []promise.Deadline{{At: &at}, {Timeout: new(time.Hour)}, {Timeout: new(time.Duration(0))}} {
		p := create(t, r, draft(fmt.Sprint(n)))
		require.Nil(t, p.TimeoutAt)
		require.NotNil(t, extend(t, r, promise.ByID(p.ID), d).TimeoutAt)
		require.Equal(t, "1 PROMISE_CREATED\n2 PROMISE_EXTENDED", events(t, db, p.WorkflowExecutionID))
	}
}

func TestNothingThatIsSettledIsExtended(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	ctx := t.Context()
	overdue := func(name string) promise.Promise {
		d := draft(name)
		d.TimeoutAt = new(time.Now().Add(-time.Hour))
		return create(t, r, d)
	}
	recorded := overdue("recorded")
	_, err := r.Expire(ctx, 10)
	require.NoError(t, err)
	settled := func(name string, s promise.SettleRequest) promise.Promise {
		p := create(t, r, draft(name))
		_, err := r.Settle(ctx, tenant, promise.ByID(p.ID), s)
		require.NoError(t, err)
		return p
	}
	for _, c := range []struct {
		p     promise.Promise
		code  promise.Code
		state promise.State
	}{
		{settled("resolved", resolved([]byte("1"))), promise.CodeConflict, promise.Resolved},
		{settled("rejected", rejected("no")), promise.CodeConflict, promise.Rejected},
		{settled("cancelled", cancelled("")), promise.CodeCancelled, promise.Cancelled},
		{overdue("overdue"), promise.CodeTimedOut, promise.TimedOut},
		{recorded, promise.CodeTimedOut, promise.TimedOut},
	} {
		before := events(t, db, c.p.WorkflowExecutionID)
		for _, d := range []promise.Deadline{{Timeout: new(time.Hour)}, {At: new(time.Now().Add(time.Hour))}, {At: c.p.TimeoutAt, Timeout: new(time.Hour)}} {
			_, err := r.Extend(ctx, tenant, promise.ByID(c.p.ID), d)
			stands := requireCode(t, c.code, err).SettleResult
			require.Equal(t, c.p.ID, stands.PromiseID)
			require.Equal(t, c.state, stands.State)
		}
		require.Equal(t, before, events(t, db, c.p.WorkflowExecutionID))
	}

	db.Tenant(t, "other")
	p := create(t, r, draft("pending"))
	for _, slug := range []string{"other", "nobody"} {
		_, err := r.Extend(ctx, slug, promise.ByID(p.ID), promise.Deadline{Timeout: new(time.Hour)})
		require.Equal(t, error(promise.ErrNotFound), err)
	}
	_, err = r.Extend(ctx, tenant, promise.ByID(uuid.New()), promise.Deadline{Timeout: new(time.Hour)})
	require.Equal(t, error(promise.ErrNotFound), err)
}

func cancelled(reason string) promise.SettleRequest {
	s := promise.SettleRequest{Result: promise.Result{State: promise.Cancelled}, By: promise.By{Kind: promise.KindDirect}}
	if reason != "" {
		s.Message = &reason
	}
	return s
}

// The same deadline asked for by many at once is one event; different ones are one each. Who comes after a settlement
// is told of it.
func TestManyExtend(t *testing.T) {
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

// Whoever waited for the deadline to pass, while it was being moved, finds the promise pending.
func TestNobodyIsToldOfATimeoutBeforeAnExtensionInTime(t *testing.T) {
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
	waitForReaders(t, db, 3)
	require.NoError(t, tx.Commit(ctx))
	wg.Wait()
	for _, err := range errs {
		require.NoError(t, err)
	}
	require.Equal(t, promise.Pending, read.State)
	require.Equal(t, p.ID, page[0].ID)
	require.Equal(t, promise.Pending, page[0].State)
}

// settledInTime settles a promise that has a deadline soon, in a transaction that it leaves open.
func settledInTime(t *testing.T, db *dbtest.DB, id uuid.UUID) pgx.Tx {
	t.Helper()
	return inTime(t, db, func(tx pgx.Tx, timeout time.Duration) bool {
		settled, err := repository.New(tx).Settle(t.Context(), tenant, promise.ByID(id), resolved([]byte("1")))
		require.NoError(t, err)
		if settled.Outcome != promise.OutcomeSettled { // once more, with another deadline
			db.Exec(t, "UPDATE promise SET timeout_at = CLOCK_TIMESTAMP() + 2 * $2::INTERVAL WHERE id = $1", id, timeout)
		}
		return settled.Outcome == promise.OutcomeSettled
	})
}

// beforeWaiting is a database in which something happens each time that a call is about to wait for others.
type beforeWaiting struct {
	repository.DB
	waits []func() // what happens, for each time, and what after it
}

func (b *beforeWaiting) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	b.waits[0]()
	tag, err := b.DB.Exec(ctx, sql, args...)
	b.waits[1]()
	b.waits = b.waits[2:]
	return tag, err
}

// A call that waits for an extension finds the new deadline passed, too: a settlement may have been in time for that one.
func TestNobodyIsToldOfATimeoutBeforeASettlementInTimeForAnExtension(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	ctx := t.Context()
	exec := func(tx interface {
		Exec(context.Context, string, ...any) (pgconn.CommandTag, error)
	}, sql string, args ...any) {
		_, err := tx.Exec(ctx, sql, args...)
		require.NoError(t, err)
	}
	for name, look := range map[string]func(*repository.Repository, promise.Promise) (promise.State, error){
		"get": func(r *repository.Repository, p promise.Promise) (promise.State, error) {
			p, err := r.Get(ctx, tenant, promise.ByID(p.ID))
			return p.State, err
		},
		"settle": func(r *repository.Repository, p promise.Promise) (promise.State, error) {
			s, err := r.Settle(ctx, tenant, promise.ByID(p.ID), rejected("late"))
			return s.State, err
		},
		"list": func(r *repository.Repository, p promise.Promise) (promise.State, error) {
			page, _, err := r.ListPromises(ctx, tenant, promise.Filter{WorkflowExecutionID: &p.WorkflowExecutionID}, 10)
			return page[0].State, err
		},
	} {
		d := draft(name)
		d.TimeoutAt = new(time.Now().Add(-time.Hour))
		p := create(t, r, d)
		var settling pgx.Tx
		state, err := look(repository.New(&beforeWaiting{db.Pool, []func(){
			func() { // the extension that is waited for
				exec(db.Pool, "UPDATE promise SET timeout_at = CLOCK_TIMESTAMP() + INTERVAL '1 s' WHERE id = $1", p.ID)
			},
			func() { // the settlement is in time, and not committed when its deadline passes
				settling = settledInTime(t, db, p.ID)
				exec(db.Pool, "SELECT pg_sleep_until(timeout_at + INTERVAL '10 ms') FROM promise WHERE id = $1", p.ID)
			},
			func() { require.NoError(t, settling.Commit(ctx)) },
			func() {},
		}}), p)
		require.NoError(t, err)
		require.Equal(t, promise.Resolved, state, name)
	}
}
