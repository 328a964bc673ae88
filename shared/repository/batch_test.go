package repository_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/promise"
	"github.com/flovyn/promises/shared/repository"
)

// Each of a hundred items of every kind gets the result of a single call that came after the items before it.
func TestBatch(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	db.Tenant(t, "other")
	ctx := t.Context()
	past := time.Now().Add(-time.Hour)
	byDefault := &promise.Result{State: promise.Resolved, Value: []byte("1")}
	overdue := func(w uuid.UUID, name string, onTimeout *promise.Result) promise.Promise {
		return create(t, r, promise.Draft{WorkflowExecutionID: w, Name: name, TimeoutAt: &past, OnTimeout: onTimeout})
	}
	var items []promise.Item
	var want []promise.ItemResult
	var order []uuid.UUID // the promises that this batch settles
	workflows := map[uuid.UUID]bool{}
	for group := range 5 {
		w := uuid.New()
		workflows[w] = true
		recorded, recordedDefault := overdue(w, "recorded", nil), overdue(w, "recorded default", byDefault)
		_, err := r.Expire(ctx, 10)
		require.NoError(t, err)
		unrecorded, unrecordedDefault := overdue(w, "unrecorded", nil), overdue(w, "unrecorded default", byDefault)
		pending := func(name string) (p promise.Promise, key promise.Identifier) {
			k := fmt.Sprint(name, group)
			return create(t, r, withKey(promise.Draft{WorkflowExecutionID: w, Name: name}, k, time.Hour)), byKey(t, k)
		}
		a, aKey := pending("a")
		b, bKey := pending("b")
		c, _ := pending("c")
		e, _ := pending("earlier")
		f, fKey := pending("failed")
		x, _ := pending("cancelled")
		for p, s := range map[*promise.Promise]promise.SettleRequest{&e: resolved([]byte("1")), &f: rejected("no"), &x: cancelled("")} {
			_, err := r.Settle(ctx, tenant, promise.ByID(p.ID), s)
			require.NoError(t, err)
		}
		theirs, err := r.Create(ctx, "other", withKey(draft("theirs"), fmt.Sprint("theirs", group), time.Hour))
		require.NoError(t, err)
		comment := fmt.Sprint("in group ", group)
		commented := resolved([]byte(` {"a": 1}`))
		commented.Comment = &comment
		for _, c := range []struct {
			i       promise.Identifier
			s       promise.SettleRequest
			id      uuid.UUID
			state   promise.State
			outcome promise.Outcome
		}{
			{bKey, rejected("first"), b.ID, promise.Rejected, promise.OutcomeSettled},
			{promise.ByID(uuid.New()), resolved([]byte("1")), uuid.Nil, "", ""},
			{promise.ByID(a.ID), commented, a.ID, promise.Resolved, promise.OutcomeSettled},
			{aKey, resolved([]byte(` {"a": 1}`)), a.ID, promise.Resolved, promise.OutcomeDuplicate},
			{aKey, resolved([]byte(`{"a":1}`)), a.ID, promise.Resolved, promise.OutcomeConflict},
			{promise.ByID(a.ID), rejected("no"), a.ID, promise.Resolved, promise.OutcomeConflict},
			{promise.ByID(b.ID), rejected("first"), b.ID, promise.Rejected, promise.OutcomeDuplicate},
			{byKey(t, fmt.Sprint("unknown", group)), resolved([]byte("1")), uuid.Nil, "", ""},
			{promise.ByID(e.ID), resolved([]byte("1")), e.ID, promise.Resolved, promise.OutcomeDuplicate},
			{promise.ByID(e.ID), resolved([]byte("2")), e.ID, promise.Resolved, promise.OutcomeConflict},
			{fKey, rejected("no"), f.ID, promise.Rejected, promise.OutcomeDuplicate},
			{promise.ByID(x.ID), rejected("no"), x.ID, promise.Cancelled, promise.OutcomeCancelled},
			{promise.ByID(c.ID), resolved([]byte("null")), c.ID, promise.Resolved, promise.OutcomeSettled},
			{promise.ByID(recorded.ID), rejected("no"), recorded.ID, promise.TimedOut, promise.OutcomeTimedOut},
			{promise.ByID(unrecorded.ID), rejected("no"), unrecorded.ID, promise.TimedOut, promise.OutcomeTimedOut},
			{promise.ByID(recordedDefault.ID), resolved([]byte("1")), recordedDefault.ID, promise.Resolved, promise.OutcomeTimedOut},
			{promise.ByID(unrecordedDefault.ID), resolved([]byte("1")), unrecordedDefault.ID, promise.Resolved, promise.OutcomeTimedOut},
			{promise.ByID(theirs.Promise.ID), resolved([]byte("1")), uuid.Nil, "", ""},
			{byKey(t, fmt.Sprint("theirs", group)), resolved([]byte("1")), uuid.Nil, "", ""},
			{promise.ByID(unrecorded.ID), resolved([]byte("1")), unrecorded.ID, promise.TimedOut, promise.OutcomeTimedOut},
		} {
			items = append(items, item(c.i, c.s))
			j := promise.ItemResult{SettleResult: promise.SettleResult{PromiseID: c.id, State: c.state, Outcome: c.outcome}}
			if c.id == uuid.Nil {
				j.Err = promise.ErrNotFound
			}
			want = append(want, j)
			if c.outcome == promise.OutcomeSettled {
				order = append(order, c.id)
			}
		}
	}
	require.Len(t, items, 100)
	before := count(t, db, "SELECT COUNT(*) FROM workflow_event")
	got, err := r.SettleBatch(ctx, tenant, byDirect, items)
	require.NoError(t, err)
	t.Run("each item has its result", func(t *testing.T) {
		require.Equal(t, want, got)
	})
	t.Run("each settlement adds one event", func(t *testing.T) {
		require.Equal(t, before+len(order), count(t, db, "SELECT COUNT(*) FROM workflow_event"))
		requireDense(t, db)
	})
	t.Run("each log has the events in the order of the batch", func(t *testing.T) {
		var logged []uuid.UUID
		for w := range workflows {
			log, err := r.ListEvents(ctx, tenant, w, 0, 100)
			require.NoError(t, err)
			for _, e := range log[len(log)-3:] {
				logged = append(logged, e.PromiseID)
				require.Equal(t, byDirect, e.Settlement.By)
			}
			at := slices.Index(order, logged[len(logged)-3])
			require.Equal(t, order[at:at+3], logged[len(logged)-3:])
		}
		require.ElementsMatch(t, order, logged)
	})
	t.Run("each settled promise has its item's result", func(t *testing.T) {
		for n, i := range items {
			if got[n].SettleResult.Outcome != promise.OutcomeSettled {
				continue
			}
			p, err := r.Get(ctx, tenant, promise.ByID(got[n].SettleResult.PromiseID))
			require.NoError(t, err)
			require.Equal(t, i.Result, promise.Result{State: p.State, Value: p.Value, Message: p.Message})
			require.Equal(t, i.Comment, p.Comment)
			require.Equal(t, &byDirect, p.SettledBy)
		}
	})
	t.Run("a repeated batch settles nothing", func(t *testing.T) {
		again, err := r.SettleBatch(ctx, tenant, byDirect, items)
		require.NoError(t, err)
		for n := range again {
			if want[n].SettleResult.Outcome == promise.OutcomeSettled {
				want[n].SettleResult.Outcome = promise.OutcomeDuplicate
			}
		}
		require.Equal(t, want, again)
	})
}

func TestBatchOfUnknownPromises(t *testing.T) {
	t.Parallel()
	r, _ := setUp(t)
	key := byKey(t, "k")
	unknown := []promise.Item{item(promise.ByID(uuid.New()), resolved([]byte("1"))), item(key, rejected("no"))}
	for name, slug := range map[string]string{"of a tenant": tenant, "of an unknown tenant": "nobody"} {
		t.Run(name, func(t *testing.T) {
			got, err := r.SettleBatch(t.Context(), slug, byDirect, unknown)
			require.NoError(t, err)
			require.Equal(t, []promise.ItemResult{{Err: promise.ErrNotFound}, {Err: promise.ErrNotFound}}, got)
			got, err = r.SettleBatch(t.Context(), slug, byDirect, nil)
			require.NoError(t, err)
			require.Empty(t, got)
		})
	}
	t.Run("by a key with an early settlement", func(t *testing.T) {
		settleEarly(t, r, "k", resolved([]byte("1")), promise.OutcomeHeld)
		got, err := r.SettleBatch(t.Context(), tenant, byDirect, unknown[1:])
		require.NoError(t, err)
		require.Equal(t, []promise.ItemResult{{Err: promise.ErrNotFound}}, got)
	})
}

// Batches that name the same promises in opposite order, and concurrent single calls, do not deadlock. Exactly one of the calls
// settles each promise.
func TestBatchesInOppositeOrder(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	ctx := context.Background()
	const rounds, promises = 60, 12
	workflows := []uuid.UUID{uuid.New(), uuid.New(), uuid.New(), uuid.New(), uuid.New()}
	for round := range rounds {
		ids := make([]uuid.UUID, promises)
		for n := range ids {
			name, w := fmt.Sprint(round, "-", n), workflows[n%len(workflows)]
			ids[n] = create(t, r, promise.Draft{WorkflowExecutionID: w, Name: name}).ID
		}
		upside := slices.Clone(ids)
		slices.Reverse(upside)
		const batches = 4
		answers, errs := make([][]promise.SettleResult, batches), make([]error, 2*batches)
		var singles [batches]promise.SettleResult
		var wg sync.WaitGroup
		for n := range batches {
			wg.Go(func() {
				items := make([]promise.Item, promises)
				for i := range items {
					items[i] = item(promise.ByID([][]uuid.UUID{ids, upside}[n%2][i]), resolved(fmt.Append(nil, n)))
				}
				results, err := r.SettleBatch(ctx, tenant, byDirect, items)
				errs[n] = err
				for _, result := range results {
					if result.Err != nil {
						errs[n] = result.Err
					}
					answers[n] = append(answers[n], result.SettleResult)
				}
			})
			wg.Go(func() {
				singles[n], errs[batches+n] = r.Settle(ctx, tenant, promise.ByID(ids[n*3]), rejected(fmt.Sprint(n)))
			})
		}
		wg.Wait()
		for _, err := range errs {
			require.NoError(t, err)
		}
		settled := map[uuid.UUID]promise.State{}
		all := append(slices.Concat(answers...), singles[:]...)
		for _, s := range all {
			if s.Outcome == promise.OutcomeSettled {
				require.NotContains(t, settled, s.PromiseID, "settled twice")
				settled[s.PromiseID] = s.State
			}
		}
		require.Len(t, settled, promises)
		for _, s := range all {
			require.Equal(t, settled[s.PromiseID], s.State, "every call returns the stored state")
		}
	}
	requireDense(t, db)
	requireOneSettlementEach(t, db, rounds*promises)
	require.Zero(t, count(t, db, "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"))
}

// A batch that waited for a lock decides by the rows that it has locked, not by its snapshot. While it waits, another
// transaction settles a promise, records a deadline or moves one, or a deadline passes. The other items are settled.
func TestABatchDecidesByTheRowsThatItHasLocked(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	ctx := t.Context()
	w := uuid.New()
	add := func(name string, d promise.Draft) promise.Identifier {
		d.WorkflowExecutionID, d.Name = w, name
		return promise.ByID(create(t, r, d).ID)
	}
	byDefault := &promise.Result{State: promise.Resolved, Value: []byte("1")}
	overdue := add("overdue", promise.Draft{TimeoutAt: new(time.Now().Add(-time.Hour)), OnTimeout: byDefault})
	same, cancels := add("same", promise.Draft{}), add("cancelled", promise.Draft{})
	sooner, left := add("sooner", promise.Draft{OnTimeout: byDefault}), add("left", promise.Draft{})
	passing := add("passing", promise.Draft{Timeout: new(time.Second)})

	tx, err := db.Pool.Begin(ctx)
	require.NoError(t, err)
	first := repository.New(tx)
	_, err = first.Expire(ctx, 10)
	require.NoError(t, err)
	_, err = first.Settle(ctx, tenant, same, resolved([]byte("1")))
	require.NoError(t, err)
	_, err = first.Settle(ctx, tenant, cancels, cancelled(""))
	require.NoError(t, err)
	_, err = first.Extend(ctx, tenant, sooner, promise.Deadline{At: new(time.Now().Add(-time.Minute))})
	require.NoError(t, err)
	var got []promise.ItemResult
	var batchErr error
	var wg sync.WaitGroup
	wg.Go(func() {
		var items []promise.Item
		for _, i := range []promise.Identifier{overdue, same, cancels, sooner, left, passing} {
			items = append(items, item(i, resolved([]byte("1"))))
		}
		got, batchErr = r.SettleBatch(ctx, tenant, byDirect, items)
	})
	waitForLocks(t, db, 1, "promise", "settle_batch")
	_, err = tx.Exec(ctx, "SELECT pg_sleep(1.01)")
	require.NoError(t, err)
	require.NoError(t, tx.Commit(ctx))
	wg.Wait()
	require.NoError(t, batchErr)
	type answer struct {
		state   promise.State
		outcome promise.Outcome
	}
	var answers []answer
	for _, result := range got {
		require.NoError(t, result.Err)
		answers = append(answers, answer{result.SettleResult.State, result.SettleResult.Outcome})
	}
	require.Equal(t, []answer{
		{promise.Resolved, promise.OutcomeTimedOut},
		{promise.Resolved, promise.OutcomeDuplicate},
		{promise.Cancelled, promise.OutcomeCancelled},
		{promise.Resolved, promise.OutcomeTimedOut},
		{promise.Resolved, promise.OutcomeSettled},
		{promise.TimedOut, promise.OutcomeTimedOut},
	}, answers)
	requireDense(t, db)
}
