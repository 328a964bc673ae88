package repository_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/dbtest"
	"github.com/flovyn/promises/shared/promise"
	"github.com/flovyn/promises/shared/repository"
)

const tenant = "acme"

func setUp(t testing.TB) (*repository.Repository, *dbtest.DB) {
	t.Helper()
	db := dbtest.New(t)
	db.Tenant(t, tenant)
	return repository.New(db.Pool), db
}

func draft(name string) promise.Draft {
	return promise.Draft{WorkflowExecutionID: uuid.New(), Name: name}
}

func withKey(d promise.Draft, key string, ttl time.Duration) promise.Draft {
	d.IdempotencyKey, d.IdempotencyKeyTTL = &key, ttl
	return d
}

func resolved(value []byte) promise.SettleRequest {
	return promise.SettleRequest{
		Result: promise.Result{State: promise.Resolved, Value: value}, By: promise.By{Kind: promise.KindDirect},
	}
}

func rejected(message string) promise.SettleRequest {
	return promise.SettleRequest{
		Result: promise.Result{State: promise.Rejected, Message: &message}, By: promise.By{Kind: promise.KindDirect},
	}
}

func made(c promise.CreateResult, err error) (p promise.Promise, created bool, _ error) {
	return c.Promise, c.New, err
}

func create(t testing.TB, r *repository.Repository, d promise.Draft) promise.Promise {
	t.Helper()
	p, created, err := made(r.Create(t.Context(), tenant, d))
	require.NoError(t, err)
	require.True(t, created)
	return p
}

func byKey(t testing.TB, key string) promise.Identifier {
	t.Helper()
	i, err := promise.ByIdempotencyKey(key)
	require.NoError(t, err)
	return i
}

func requireCode(t testing.TB, want promise.Code, err error) promise.Error {
	t.Helper()
	require.Error(t, err)
	e := promise.AsError(err)
	require.Equal(t, want, e.Code, "%v", err)
	return *e
}

func count(t testing.TB, db *dbtest.DB, sql string, args ...any) int {
	t.Helper()
	rows, err := db.Pool.Query(t.Context(), sql, args...)
	require.NoError(t, err)
	n, err := pgx.CollectExactlyOneRow(rows, pgx.RowTo[int])
	require.NoError(t, err)
	return n
}

// events tells a workflow's log as "number type" lines.
func events(t testing.TB, db *dbtest.DB, workflow uuid.UUID) string {
	t.Helper()
	rows, err := db.Pool.Query(t.Context(), `SELECT sequence_number || ' ' || event_type FROM workflow_event
		WHERE workflow_execution_id = $1 ORDER BY sequence_number`, workflow)
	require.NoError(t, err)
	lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(t, err)
	return strings.Join(lines, "\n")
}

func TestCreateAndGet(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	d := withKey(draft("payment: 1/2"), "stripe:ch_abc123", time.Hour)
	d.Metadata = []byte(`{"order": 17, "note": "größer < kleiner"}`)
	timeout := time.Hour
	d.Timeout = &timeout
	p := create(t, r, d)

	require.NotEqual(t, uuid.Nil, p.ID)
	require.Equal(t, d.WorkflowExecutionID, p.WorkflowExecutionID)
	require.Equal(t, d.Name, p.Name)
	require.Equal(t, promise.Pending, p.State)
	require.Equal(t, "stripe:ch_abc123", *p.IdempotencyKey)
	require.JSONEq(t, string(d.Metadata), string(p.Metadata))
	require.Equal(t, time.Hour, p.TimeoutAt.Sub(p.CreatedAt))
	require.Equal(t, int32(1), p.CreatedBySequence)
	require.Nil(t, p.Value)
	require.Nil(t, p.Message)
	require.Nil(t, p.ResolvedAt)
	require.Nil(t, p.ResolvedBySequence)

	for _, i := range []promise.Identifier{promise.ByID(p.ID), byKey(t, "stripe:ch_abc123")} {
		got, err := r.Get(t.Context(), tenant, i)
		require.NoError(t, err)
		require.Equal(t, p, got)
	}
	got, err := r.GetByWorkflowAndName(t.Context(), tenant, p.WorkflowExecutionID, p.Name)
	require.NoError(t, err)
	require.Equal(t, p, got)
	require.Equal(t, "1 PROMISE_CREATED", events(t, db, p.WorkflowExecutionID))

	second := d
	second.Name, second.IdempotencyKey, second.Metadata, second.Timeout = "second", nil, nil, nil
	q := create(t, r, second)
	require.Equal(t, int32(2), q.CreatedBySequence)
	require.Nil(t, q.TimeoutAt)
	require.Nil(t, q.Metadata)
	require.Nil(t, q.IdempotencyKey)
}

func TestCreateAgain(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	d := withKey(draft("payment"), "k", time.Hour)
	d.Metadata = []byte(`{"a":1,"b":2}`)
	p := create(t, r, d)

	again := d
	again.Metadata = []byte(`{ "b": 2, "a": 1 }`)
	later := time.Now().Add(48 * time.Hour)
	again.TimeoutAt = &later
	got, created, err := made(r.Create(t.Context(), tenant, again))
	require.NoError(t, err)
	require.False(t, created)
	require.Equal(t, p, got)

	other := withKey(d, "other", time.Hour)
	_, _, err = made(r.Create(t.Context(), tenant, other))
	require.Equal(t, p.ID, requireCode(t, promise.CodeCreateConflict, err).ExistingPromiseID)
	other = d
	other.IdempotencyKey = nil
	_, _, err = made(r.Create(t.Context(), tenant, other))
	requireCode(t, promise.CodeCreateConflict, err)
	other = d
	other.Metadata = nil
	_, _, err = made(r.Create(t.Context(), tenant, other))
	requireCode(t, promise.CodeCreateConflict, err)

	_, err = r.Settle(t.Context(), tenant, promise.ByID(p.ID), resolved([]byte(`"paid"`)))
	require.NoError(t, err)
	got, created, err = made(r.Create(t.Context(), tenant, d))
	require.NoError(t, err)
	require.False(t, created)
	require.Equal(t, promise.Resolved, got.State)
	require.Equal(t, `"paid"`, string(got.Value))
	require.Equal(t, 1, count(t, db, "SELECT COUNT(*) FROM promise"))
	require.Equal(t, 1, count(t, db, "SELECT COUNT(*) FROM idempotency_key"))
	require.Equal(t, "1 PROMISE_CREATED\n2 PROMISE_RESOLVED", events(t, db, p.WorkflowExecutionID))

	// Once the key's time is over and its row is gone, the same create is still the same create.
	db.Exec(t, "UPDATE idempotency_key SET expires_at = NOW()")
	db.Rewrite(t, "UPDATE promise SET resolved_at = NOW() - INTERVAL '8 days'")
	db.Exec(t, "UPDATE idempotency_key SET check_at = NOW()")
	expired, err := r.ExpireIdempotencyKeys(t.Context(), 10)
	require.NoError(t, err)
	require.Equal(t, 1, expired.Released)
	_, created, err = made(r.Create(t.Context(), tenant, d))
	require.NoError(t, err)
	require.False(t, created)
}

func TestSettle(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	ctx := t.Context()
	value := " {\"a\" : [1, 2.0e1, \"<\\u00e4>\"],\n \"a\": null} "
	p := create(t, r, withKey(draft("resolved"), "k1", time.Hour))
	want := promise.SettleResult{PromiseID: p.ID, State: promise.Resolved, Outcome: promise.OutcomeSettled}
	got, err := r.Settle(ctx, tenant, byKey(t, "k1"), resolved([]byte(value)))
	require.NoError(t, err)
	require.Equal(t, want, got)

	for _, c := range []struct {
		name    string
		settle  func() (promise.SettleResult, error)
		outcome promise.Outcome
	}{
		{"same bytes", func() (promise.SettleResult, error) {
			return r.Settle(ctx, tenant, promise.ByID(p.ID), resolved([]byte(value)))
		}, promise.OutcomeDuplicate},
		{"other bytes, same JSON", func() (promise.SettleResult, error) {
			return r.Settle(ctx, tenant, promise.ByID(p.ID), resolved([]byte(strings.TrimSpace(value))))
		}, promise.OutcomeConflict},
		{"rejected", func() (promise.SettleResult, error) {
			return r.Settle(ctx, tenant, promise.ByID(p.ID), rejected(value))
		}, promise.OutcomeConflict},
	} {
		got, err := c.settle()
		require.NoError(t, err, c.name)
		require.Equal(t, promise.SettleResult{PromiseID: p.ID, State: promise.Resolved, Outcome: c.outcome}, got, c.name)
	}
	stored, err := r.Get(ctx, tenant, promise.ByID(p.ID))
	require.NoError(t, err)
	require.Equal(t, value, string(stored.Value))
	require.Equal(t, promise.Resolved, stored.State)
	require.Nil(t, stored.Message)
	require.Equal(t, int32(2), *stored.ResolvedBySequence)
	require.False(t, stored.ResolvedAt.Before(stored.CreatedAt))
	require.Equal(t, "1 PROMISE_CREATED\n2 PROMISE_RESOLVED", events(t, db, p.WorkflowExecutionID))

	q := create(t, r, draft("rejected"))
	got, err = r.Settle(ctx, tenant, promise.ByID(q.ID), rejected(""))
	require.NoError(t, err)
	require.Equal(t, promise.SettleResult{PromiseID: q.ID, State: promise.Rejected, Outcome: promise.OutcomeSettled}, got)
	got, err = r.Settle(ctx, tenant, promise.ByID(q.ID), rejected(""))
	require.NoError(t, err)
	require.Equal(t, promise.OutcomeDuplicate, got.Outcome)
	stored, err = r.Get(ctx, tenant, promise.ByID(q.ID))
	require.NoError(t, err)
	require.Empty(t, *stored.Message)
	require.Nil(t, stored.Value)
	require.Equal(t, "1 PROMISE_CREATED\n2 PROMISE_REJECTED", events(t, db, q.WorkflowExecutionID))

	c := create(t, r, draft("cancelled"))
	db.Exec(t, "UPDATE promise SET resolved = TRUE, outcome = 'cancelled', resolved_at = NOW() WHERE id = $1", c.ID)
	got, err = r.Settle(ctx, tenant, promise.ByID(c.ID), resolved([]byte("1")))
	require.NoError(t, err)
	require.Equal(t, promise.SettleResult{PromiseID: c.ID, State: promise.Cancelled, Outcome: promise.OutcomeCancelled}, got)
}

func TestForeignAndUnknown(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	db.Tenant(t, "other")
	ctx := t.Context()
	d := withKey(draft("payment"), "k", time.Hour)
	p := create(t, r, d)
	before := fmt.Sprint(count(t, db, "SELECT SUM(last_sequence_number) FROM workflow_execution"))

	var failures []error
	for _, slug := range []string{"other", "nobody"} {
		_, err := r.Get(ctx, slug, promise.ByID(p.ID))
		failures = append(failures, err)
		_, err = r.Get(ctx, slug, byKey(t, "k"))
		failures = append(failures, err)
		_, err = r.GetByWorkflowAndName(ctx, slug, p.WorkflowExecutionID, p.Name)
		failures = append(failures, err)
		_, err = r.Settle(ctx, slug, promise.ByID(p.ID), resolved([]byte("1")))
		failures = append(failures, err)
		_, err = r.Settle(ctx, slug, byKey(t, "k"), rejected("x"))
		failures = append(failures, err)
		_, _, err = made(r.Create(ctx, slug, d))
		failures = append(failures, err)
		_, err = r.FindPromiseByIdempotencyKey(ctx, slug, "k")
		failures = append(failures, err, r.AddIdempotencyKey(ctx, slug, "k2", p.ID, time.Hour))
	}
	_, err := r.Get(ctx, tenant, promise.ByID(uuid.New()))
	failures = append(failures, err)
	_, err = r.Settle(ctx, tenant, byKey(t, "unknown"), resolved([]byte("1")))
	failures = append(failures, err)
	for i, err := range failures {
		require.Equal(t, error(promise.ErrNotFound), err, i)
	}
	require.Equal(t, before, fmt.Sprint(count(t, db, "SELECT SUM(last_sequence_number) FROM workflow_execution")))
	require.Equal(t, 1, count(t, db, "SELECT COUNT(*) FROM promise WHERE NOT resolved"))
	require.Equal(t, 1, count(t, db, "SELECT COUNT(*) FROM workflow_event"))

	// The same key under another tenant is another key.
	elsewhere, _, err := made(r.Create(ctx, "other", withKey(draft("payment"), "k", time.Hour)))
	require.NoError(t, err)
	found, err := r.FindPromiseByIdempotencyKey(ctx, "other", "k")
	require.NoError(t, err)
	require.Equal(t, elsewhere.ID, found)
	for slug, want := range map[string]promise.Promise{tenant: p, "other": elsewhere} {
		got, err := r.Settle(ctx, slug, byKey(t, "k"), resolved([]byte("1")))
		require.NoError(t, err)
		require.Equal(t, want.ID, got.PromiseID)
		require.Equal(t, promise.OutcomeSettled, got.Outcome)
	}
}

func TestDeadline(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	ctx := t.Context()
	past := time.Now().Add(-time.Hour)
	d := withKey(draft("late"), "k", time.Hour)
	d.TimeoutAt = &past
	p := create(t, r, d)
	require.Equal(t, promise.TimedOut, p.State)
	require.Equal(t, p.TimeoutAt, p.ResolvedAt)
	_, created, err := made(r.Create(ctx, tenant, d))
	require.NoError(t, err)
	require.False(t, created)

	for _, i := range []promise.Identifier{promise.ByID(p.ID), byKey(t, "k")} {
		got, err := r.Settle(ctx, tenant, i, resolved([]byte("1")))
		require.NoError(t, err)
		require.Equal(t, promise.SettleResult{PromiseID: p.ID, State: promise.TimedOut, Outcome: promise.OutcomeTimedOut}, got)
		stored, err := r.Get(ctx, tenant, i)
		require.NoError(t, err)
		require.Equal(t, promise.TimedOut, stored.State)
	}
	require.Equal(t, "1 PROMISE_CREATED", events(t, db, p.WorkflowExecutionID))

	none := time.Duration(0)
	d = draft("at once")
	d.Timeout = &none
	require.Equal(t, promise.TimedOut, create(t, r, d).State)
}

// inTime begins a transaction that changes a promise before its deadline, and returns it open. change makes the promise, with
// a deadline so far away, and says whether it was in time to change it: where the machine is too busy, there is more time for the next one.
func inTime(t *testing.T, db *dbtest.DB, change func(tx pgx.Tx, timeout time.Duration) bool) pgx.Tx {
	t.Helper()
	for timeout := time.Second; ; timeout *= 2 {
		require.Less(t, timeout, 5*time.Minute, "it is never in time")
		tx, err := db.Pool.Begin(t.Context())
		require.NoError(t, err)
		if change(tx, timeout) {
			t.Cleanup(func() { tx.Rollback(context.Background()) }) //nolint:errcheck // where it is over already
			return tx
		}
		require.NoError(t, tx.Rollback(t.Context()))
	}
}

// A settlement judged in time holds its workflow's row until it commits. Readers and settlers who come after the
// deadline must wait for it, or one is told timed_out of a promise that is then resolved.
func TestNobodyIsToldOfATimeoutBeforeASettlementInTime(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	ctx := t.Context()
	d := draft("close call")
	var p promise.Promise
	tx := inTime(t, db, func(tx pgx.Tx, timeout time.Duration) bool {
		d.Name, d.Timeout = timeout.String(), &timeout
		p = create(t, r, d)
		got, err := repository.New(tx).Settle(ctx, tenant, promise.ByID(p.ID), resolved([]byte(`"in time"`)))
		require.NoError(t, err)
		return got.Outcome == promise.OutcomeSettled
	})
	_, err := tx.Exec(ctx, "SELECT pg_sleep_until($1::TIMESTAMPTZ + INTERVAL '10 ms')", p.TimeoutAt)
	require.NoError(t, err)

	var wg sync.WaitGroup
	var read, again promise.Promise
	var late promise.SettleResult
	var errs [3]error
	wg.Go(func() { read, errs[0] = r.Get(ctx, tenant, promise.ByID(p.ID)) })
	wg.Go(func() { late, errs[1] = r.Settle(ctx, tenant, promise.ByID(p.ID), resolved([]byte(`"late"`))) })
	wg.Go(func() { again, _, errs[2] = made(r.Create(ctx, tenant, d)) })
	waitForReaders(t, db, 3)
	require.NoError(t, tx.Commit(ctx))
	wg.Wait()
	for _, err := range errs {
		require.NoError(t, err)
	}
	require.Equal(t, promise.Resolved, read.State)
	require.Equal(t, promise.SettleResult{PromiseID: p.ID, State: promise.Resolved, Outcome: promise.OutcomeConflict}, late)
	require.Equal(t, promise.Resolved, again.State)
}

// A settlement that came in time and then waited past the deadline for its workflow's row is late.
func TestDeadlineIsJudgedWithTheLockHeld(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	ctx := t.Context()
	d := draft("kept waiting")
	timeout := time.Second
	d.Timeout = &timeout
	p := create(t, r, d)

	tx, err := db.Pool.Begin(ctx)
	require.NoError(t, err)
	_, err = tx.Exec(ctx, "SELECT FROM workflow_execution WHERE id = $1 FOR NO KEY UPDATE", p.WorkflowExecutionID)
	require.NoError(t, err)
	var got promise.SettleResult
	var settleErr error
	var wg sync.WaitGroup
	wg.Go(func() { got, settleErr = r.Settle(ctx, tenant, promise.ByID(p.ID), resolved([]byte("1"))) })
	_, err = tx.Exec(ctx, "SELECT pg_sleep_until($1::TIMESTAMPTZ + INTERVAL '10 ms')", p.TimeoutAt)
	require.NoError(t, err)
	require.NoError(t, tx.Commit(ctx))
	wg.Wait()
	require.NoError(t, settleErr)
	require.Equal(t, promise.OutcomeTimedOut, got.Outcome)
	require.Equal(t, "1 PROMISE_CREATED", events(t, db, p.WorkflowExecutionID))
	require.Equal(t, 1, count(t, db, "SELECT last_sequence_number FROM workflow_execution"))
}
