package repository_test

import (
	"context"
	"crypto/rand"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/promise"
	"github.com/flovyn/promises/shared/repository"
)

// A batch of deadlines writes a few pages for each promise, however large the value of its default outcome is. Every call returns
// the value byte for byte, from a row of this release and from one that an earlier release has written.
func TestADeadlinesValueIsNotCopied(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	ctx := t.Context()
	const n, size = 7, 1_000_000
	workflow, message := uuid.New(), strings.Repeat("no ", 300_000)
	drafts, want := make([]promise.Draft, n), make([]promise.Result, n)
	var ids []uuid.UUID
	for i := range n {
		var value strings.Builder // random, so that it does not compress
		for value.Len() < size {
			value.WriteString(rand.Text())
		}
		want[i] = promise.Result{State: promise.Resolved, Value: []byte(" \"" + value.String()[:size] + "\" ")}
		if i == n-1 {
			want[i] = promise.Result{State: promise.Rejected, Message: &message}
		}
		drafts[i] = promise.Draft{WorkflowExecutionID: workflow, Name: fmt.Sprint(i), OnTimeout: &want[i]}
		p := createOverdue(t, r, tenant, drafts[i], time.Hour)
		drafts[i].TimeoutAt = p.TimeoutAt
		ids = append(ids, p.ID)
	}
	conn, err := db.Pool.Acquire(ctx)
	require.NoError(t, err)
	prepare(t, conn, "expire")
	plan := explain(t, conn, "expire", map[string]string{"limit": "1000"})
	conn.Release()
	require.Positive(t, plan.WALBytes)
	require.Less(t, plan.WALBytes, n*100_000, "of %d bytes of values", n*size)
	require.Equal(t, n, count(t, db, "SELECT COUNT(*) FROM promise WHERE settled_by_kind = 'deadline' AND value IS NULL AND error IS NULL"))

	readAll := func(t *testing.T) {
		ctx := t.Context()
		same := func(how string, i int, p promise.Promise) {
			t.Helper()
			require.Equal(t, ids[i], p.ID)
			require.True(t, want[i].Same(promise.Result{State: p.State, Value: p.Value, Message: p.Message}), how)
			require.Equal(t, &promise.By{Kind: promise.KindDeadline}, p.SettledBy)
		}
		var pages []int
		var listed []promise.Promise
		for f, more := (promise.Filter{WorkflowExecutionID: &workflow}), true; more; {
			var page []promise.Promise
			var err error
			page, more, err = r.ListPromises(ctx, tenant, f, 100)
			require.NoError(t, err)
			pages, listed = append(pages, len(page)), append(listed, page...)
			f.After = new(f.CursorAfter(page[len(page)-1]))
		}
		require.Equal(t, []int{3, 3, 1}, pages, "a value counts once")
		log, err := r.ListEvents(ctx, tenant, workflow, n, 100)
		require.NoError(t, err)
		require.Len(t, log, 3, "a value counts once")
		rest, err := r.ListEvents(ctx, tenant, workflow, n+6, 100)
		require.NoError(t, err)
		log = append(log, rest...)
		for at, i := range []int{0, 1, 2, n - 1} {
			require.Equal(t, promise.EventTimeout, log[at].Type)
			require.True(t, want[i].Same(log[at].Settlement.Result), "event %d", i)
		}
		tenants, _, err := r.ListPromises(ctx, tenant, promise.Filter{State: new(promise.Rejected)}, 1)
		require.NoError(t, err)
		same("list of the tenant", n-1, tenants[0])
		for i, d := range drafts {
			p, err := r.Get(ctx, tenant, promise.ByID(ids[i]))
			require.NoError(t, err)
			same("get", i, p)
			p, err = r.GetByWorkflowAndName(ctx, tenant, workflow, d.Name)
			require.NoError(t, err)
			same("get by name", i, p)
			p, created, err := unpack(r.Create(ctx, tenant, d))
			require.NoError(t, err)
			require.False(t, created)
			same("create again", i, p)
			same("list", i, listed[n-1-i])
			late := promise.SettleResult{PromiseID: ids[i], State: want[i].State, Outcome: promise.OutcomeTimedOut}
			settlement := promise.SettleRequest{Result: want[i], By: byDirect}
			settled, err := r.Settle(ctx, tenant, promise.ByID(ids[i]), settlement)
			require.NoError(t, err)
			require.Equal(t, late, settled)
			batch, err := r.SettleBatch(ctx, tenant, byDirect, []promise.Item{item(promise.ByID(ids[i]), settlement)})
			require.NoError(t, err)
			require.Equal(t, []promise.ItemResult{{SettleResult: late}}, batch)
		}
	}
	t.Run("rows of this release", readAll)
	db.Rewrite(t, "UPDATE promise SET value = timeout_value, error = timeout_error")
	t.Run("rows of an earlier release", readAll)
}

// If more deadlines are due than a batch takes, the tenants take turns, however early one tenant sets its deadlines.
func TestTenantsTakeTurns(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	db.Tenant(t, "hostile")
	ctx := t.Context()
	theirs, ours := uuid.New(), uuid.New()
	for i := range 30 {
		d := promise.Draft{WorkflowExecutionID: theirs, Name: fmt.Sprint(i), TimeoutAt: new(time.Date(1, 1, 30-i, 0, 0, 0, 0, time.UTC))}
		_, err := r.Create(ctx, "hostile", d)
		require.NoError(t, err)
	}
	for i := range 3 {
		createOverdue(t, r, tenant, promise.Draft{WorkflowExecutionID: ours, Name: fmt.Sprint(i)}, time.Duration(3-i)*time.Millisecond)
	}
	of := func(workflow uuid.UUID) int {
		return count(t, db, "SELECT COUNT(*) FROM promise WHERE resolved AND workflow_execution_id = $1", workflow)
	}
	for batch, want := range []struct{ theirs, ours, expired int }{{2, 2, 4}, {5, 3, 4}, {9, 3, 4}} {
		got, err := r.Expire(ctx, 4)
		require.NoError(t, err)
		require.Equal(t, want.expired, got.Expired)
		require.True(t, got.More)
		require.Equal(t, []int{want.theirs, want.ours}, []int{of(theirs), of(ours)}, "batch %d", batch)
	}
	for more := true; more; {
		got, err := r.Expire(ctx, 4)
		require.NoError(t, err)
		more = got.More
	}
	require.Equal(t, 30, of(theirs))
	requireDense(t, db)
	require.Zero(t, count(t, db, `SELECT COUNT(*) FROM promise p JOIN promise q USING (workflow_execution_id)
		WHERE p.timeout_at < q.timeout_at AND p.resolved_by_sequence > q.resolved_by_sequence`))
}

// If more tenants have due deadlines than a batch takes, a deadline before its promise's creation counts from the creation.
func TestADeadlineInTheYearOneHasNoPrecedence(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	const honest = 5
	for i := range honest {
		slug := fmt.Sprint("honest-", i)
		db.Tenant(t, slug)
		createOverdue(t, r, slug, draft("p"), time.Hour)
	}
	db.Exec(t, "UPDATE promise SET created_at = NOW() - INTERVAL '1 day'")
	for i := range honest {
		slug := fmt.Sprint("hostile-", i)
		db.Tenant(t, slug)
		d := draft("hostile")
		d.TimeoutAt = new(time.Date(1, 1, 1, 0, 0, 0, 0, time.UTC))
		_, err := r.Create(t.Context(), slug, d)
		require.NoError(t, err)
	}
	got, err := r.Expire(t.Context(), honest)
	require.NoError(t, err)
	require.Equal(t, honest, got.Expired)
	require.Equal(t, honest, count(t, db, "SELECT COUNT(*) FROM promise WHERE resolved AND name = 'p'"))
}

// No call waits for a sweep that is recording a deadline. Each call returns the same result before the sweep ends and after it,
// whether the sweep commits or rolls back.
func TestNoCallWaitsForTheSweep(t *testing.T) {
	t.Parallel()
	for name, sweep := range map[string]func(context.Context, *repository.Repository, promise.Promise) (promise.ExpireResult, error){
		"all": func(ctx context.Context, r *repository.Repository, _ promise.Promise) (promise.ExpireResult, error) {
			return r.Expire(ctx, 10)
		},
		"one workflow": func(ctx context.Context, r *repository.Repository, p promise.Promise) (promise.ExpireResult, error) {
			return r.ExpireWorkflow(ctx, p.WorkflowExecutionID, 10)
		},
	} {
		for _, commits := range []bool{true, false} {
			t.Run(fmt.Sprint(name, ", commits: ", commits), func(t *testing.T) {
				t.Parallel()
				r, db := setUp(t)
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				d := draft("overdue")
				d.OnTimeout = &promise.Result{State: promise.Resolved, Value: []byte(` "by default"`)}
				p := createOverdue(t, r, tenant, d, time.Hour)
				tx, err := db.Pool.Begin(ctx)
				require.NoError(t, err)
				defer tx.Rollback(context.WithoutCancel(ctx)) //nolint:errcheck // the test has ended it by then
				got, err := sweep(ctx, repository.New(tx), p)
				require.NoError(t, err)
				require.Equal(t, 1, got.Expired)
				calls := func() {
					read, err := r.Get(ctx, tenant, promise.ByID(p.ID))
					require.NoError(t, err)
					require.Equal(t, promise.Resolved, read.State)
					require.Equal(t, d.OnTimeout.Value, read.Value)
					page, _, err := r.ListPromises(ctx, tenant, promise.Filter{State: new(promise.Resolved)}, 10)
					require.NoError(t, err)
					require.Len(t, page, 1)
					require.Equal(t, read.Value, page[0].Value)
					again := d
					again.TimeoutAt = p.TimeoutAt
					known, _, err := unpack(r.Create(ctx, tenant, again))
					require.NoError(t, err)
					require.Equal(t, promise.Resolved, known.State)
					late, err := r.Settle(ctx, tenant, promise.ByID(p.ID), rejected("late"))
					require.NoError(t, err)
					require.Equal(t, promise.OutcomeTimedOut, late.Outcome)
					_, err = r.Extend(ctx, tenant, promise.ByID(p.ID), promise.Deadline{Timeout: new(time.Hour)})
					requireCode(t, promise.CodeTimedOut, err)
				}
				calls()
				if commits {
					require.NoError(t, tx.Commit(ctx))
				} else {
					require.NoError(t, tx.Rollback(ctx))
				}
				calls()
			})
		}
	}
}

// A call that waits for a settlement has no lock on the promise that it reads, because the sweep and deletions lock it.
func TestAWaitingReadLocksNoPromise(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	ctx := t.Context()
	d := draft("overdue")
	p := createOverdue(t, r, tenant, d, time.Hour)
	q := create(t, r, promise.Draft{WorkflowExecutionID: d.WorkflowExecutionID, Name: "settled meanwhile"})
	tx, err := db.Pool.Begin(ctx)
	require.NoError(t, err)
	_, err = repository.New(tx).Settle(ctx, tenant, promise.ByID(q.ID), resolved([]byte("1")))
	require.NoError(t, err)
	var wg sync.WaitGroup
	var read promise.Promise
	var readErr error
	wg.Go(func() { read, readErr = r.Get(ctx, tenant, promise.ByID(p.ID)) })
	waitForLocks(t, db, 1, "workflow_execution", "await_settlements")
	_, err = tx.Exec(ctx, "SELECT FROM promise WHERE id = $1 FOR UPDATE NOWAIT", p.ID)
	require.NoError(t, err)
	require.NoError(t, tx.Commit(ctx))
	wg.Wait()
	require.NoError(t, readErr)
	require.Equal(t, promise.TimedOut, read.State)
}

// A call that has waited for settlements has no lock, even before its transaction ends. Many late calls would otherwise keep the
// settlements of their workflow out.
func TestAWaitEndsWithoutALock(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	p := createOverdue(t, r, tenant, draft("overdue"), time.Hour)
	tx, err := db.Pool.Begin(t.Context())
	require.NoError(t, err)
	defer tx.Rollback(context.WithoutCancel(t.Context())) //nolint:errcheck // nothing was written
	late, err := repository.New(tx).Settle(t.Context(), tenant, promise.ByID(p.ID), rejected("late"))
	require.NoError(t, err)
	require.Equal(t, promise.OutcomeTimedOut, late.Outcome)
	for _, table := range []string{"workflow_execution", "promise"} {
		t.Run(table, func(t *testing.T) {
			db.Exec(t, "SELECT FROM "+table+" FOR UPDATE NOWAIT")
		})
	}
}

// A sweep that waited for a workflow uses the rows that were committed meanwhile. It leaves promises that were settled or extended in
// time, and continues the sequence numbers.
func TestTheSweepUsesTheRowsThatItHasLocked(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	ctx := t.Context()
	workflow := uuid.New()
	var ps []promise.Promise
	for i := range 3 {
		ps = append(ps, createOverdue(t, r, tenant, promise.Draft{WorkflowExecutionID: workflow, Name: fmt.Sprint(i)}, time.Hour))
	}
	tx, err := db.Pool.Begin(ctx)
	require.NoError(t, err)
	for sql, id := range map[string]uuid.UUID{
		"UPDATE promise SET timeout_at = NOW() + INTERVAL '1 hour' WHERE id = $1": ps[0].ID,
		`WITH number AS (
			UPDATE workflow_execution w SET last_sequence_number = last_sequence_number + 1
			FROM promise p WHERE p.id = $1 AND w.id = p.workflow_execution_id RETURNING last_sequence_number
		)
		UPDATE promise SET resolved = TRUE, outcome = 'resolved', value = '1', resolved_at = NOW(), settled_by_kind = 'key',
			resolved_by_sequence = (SELECT last_sequence_number FROM number) WHERE id = $1`: ps[1].ID,
	} {
		_, err = tx.Exec(ctx, sql, id)
		require.NoError(t, err)
	}
	done := make(chan promise.ExpireResult, 1)
	go func() {
		got, _ := r.ExpireWorkflow(context.WithoutCancel(ctx), workflow, 10)
		done <- got
	}()
	waitForLocks(t, db, 1, "workflow_execution", "expire_workflow")
	require.NoError(t, tx.Commit(ctx))
	require.Equal(t, 1, (<-done).Expired)
	require.Equal(t, "1 PROMISE_CREATED\n2 PROMISE_CREATED\n3 PROMISE_CREATED\n4 PROMISE_RESOLVED\n5 PROMISE_TIMEOUT", events(t, db, workflow))
	requireDense(t, db)
}

// However many deadlines a locked workflow has, a batch reads only a few times its limit.
func TestABatchIsBoundedBehindALockedWorkflow(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	busy := create(t, r, draft("busy")).WorkflowExecutionID
	db.Exec(t, `INSERT INTO promise (workflow_execution_id, tenant_id, name, created_by_sequence, timeout_at, created_at)
		SELECT id, tenant_id, n::TEXT, 1, NOW() - INTERVAL '1 hour' + n * INTERVAL '1 ms', NOW() - INTERVAL '1 day'
		FROM workflow_execution CROSS JOIN generate_series(1, 5000) n`)
	db.Tenant(t, "honest")
	free := createOverdue(t, r, "honest", draft("free"), time.Second)
	db.Exec(t, "ANALYZE")
	tx, err := db.Pool.Begin(t.Context())
	require.NoError(t, err)
	defer tx.Rollback(t.Context()) //nolint:errcheck // nothing was written
	_, err = tx.Exec(t.Context(), "SELECT FROM workflow_execution WHERE id = $1 FOR NO KEY UPDATE", busy)
	require.NoError(t, err)
	conn, err := db.Pool.Acquire(t.Context())
	require.NoError(t, err)
	defer conn.Release()
	prepare(t, conn, "expire")
	plan := explain(t, conn, "expire", map[string]string{"limit": "10"})
	rows := map[string]int{}
	plan.indexRows(rows)
	for index, n := range rows {
		require.LessOrEqual(t, n, 100, "rows of %s", index)
	}
	require.Equal(t, 1, count(t, db, "SELECT COUNT(*) FROM promise WHERE resolved AND id = $1", free.ID))
}
