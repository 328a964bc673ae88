package repository_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/promise"
	"github.com/flovyn/promises/shared/repository"
)

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

	for name, i := range map[string]promise.Identifier{"by id": promise.ByID(p.ID), "by key": byKey(t, "stripe:ch_abc123")} {
		t.Run("get "+name, func(t *testing.T) {
			got, err := r.Get(t.Context(), tenant, i)
			require.NoError(t, err)
			require.Equal(t, p, got)
		})
	}
	t.Run("get by workflow and name", func(t *testing.T) {
		got, err := r.GetByWorkflowAndName(t.Context(), tenant, p.WorkflowExecutionID, p.Name)
		require.NoError(t, err)
		require.Equal(t, p, got)
		require.Equal(t, "1 PROMISE_CREATED", events(t, db, p.WorkflowExecutionID))
	})
	t.Run("a promise without options", func(t *testing.T) {
		second := d
		second.Name, second.IdempotencyKey, second.Metadata, second.Timeout = "second", nil, nil, nil
		q := create(t, r, second)
		require.Equal(t, int32(2), q.CreatedBySequence)
		require.Nil(t, q.TimeoutAt)
		require.Nil(t, q.Metadata)
		require.Nil(t, q.IdempotencyKey)
	})
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
	got, created, err := unpack(r.Create(t.Context(), tenant, again))
	require.NoError(t, err)
	require.False(t, created)
	require.Equal(t, p, got)

	withoutKey, withoutMetadata := d, d
	withoutKey.IdempotencyKey, withoutMetadata.Metadata = nil, nil
	for name, other := range map[string]promise.Draft{
		"another key": withKey(d, "other", time.Hour), "no key": withoutKey, "other metadata": withoutMetadata,
	} {
		t.Run(name+" is a conflict", func(t *testing.T) {
			_, err := r.Create(t.Context(), tenant, other)
			require.Equal(t, p.ID, requireCode(t, promise.CodeCreateConflict, err).ExistingPromiseID)
		})
	}
	t.Run("a settled promise is returned", func(t *testing.T) {
		_, err := r.Settle(t.Context(), tenant, promise.ByID(p.ID), resolved([]byte(`"paid"`)))
		require.NoError(t, err)
		got, created, err := unpack(r.Create(t.Context(), tenant, d))
		require.NoError(t, err)
		require.False(t, created)
		require.Equal(t, promise.Resolved, got.State)
		require.Equal(t, `"paid"`, string(got.Value))
		require.Equal(t, 1, count(t, db, "SELECT COUNT(*) FROM promise"))
		require.Equal(t, 1, count(t, db, "SELECT COUNT(*) FROM idempotency_key"))
		require.Equal(t, "1 PROMISE_CREATED\n2 PROMISE_RESOLVED", events(t, db, p.WorkflowExecutionID))
	})
	t.Run("the promise is found after its key was deleted", func(t *testing.T) {
		db.Exec(t, "UPDATE idempotency_key SET expires_at = NOW()")
		db.Rewrite(t, "UPDATE promise SET resolved_at = NOW() - INTERVAL '8 days'")
		db.Exec(t, "UPDATE idempotency_key SET check_at = NOW()")
		expired, err := r.ExpireIdempotencyKeys(t.Context(), 10)
		require.NoError(t, err)
		require.Equal(t, 1, expired.Released)
		_, created, err := unpack(r.Create(t.Context(), tenant, d))
		require.NoError(t, err)
		require.False(t, created)
	})
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
		settle  promise.SettleRequest
		outcome promise.Outcome
	}{
		{"the same bytes are a duplicate", resolved([]byte(value)), promise.OutcomeDuplicate},
		{"other bytes of the same JSON are a conflict", resolved([]byte(strings.TrimSpace(value))), promise.OutcomeConflict},
		{"a rejection is a conflict", rejected(value), promise.OutcomeConflict},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := r.Settle(t.Context(), tenant, promise.ByID(p.ID), c.settle)
			require.NoError(t, err)
			require.Equal(t, promise.SettleResult{PromiseID: p.ID, State: promise.Resolved, Outcome: c.outcome}, got)
		})
	}
	t.Run("the value is stored byte for byte", func(t *testing.T) {
		stored, err := r.Get(t.Context(), tenant, promise.ByID(p.ID))
		require.NoError(t, err)
		require.Equal(t, value, string(stored.Value))
		require.Equal(t, promise.Resolved, stored.State)
		require.Nil(t, stored.Message)
		require.Equal(t, int32(2), *stored.ResolvedBySequence)
		require.False(t, stored.ResolvedAt.Before(stored.CreatedAt))
		require.Equal(t, "1 PROMISE_CREATED\n2 PROMISE_RESOLVED", events(t, db, p.WorkflowExecutionID))
	})
	t.Run("a rejection may have an empty error", func(t *testing.T) {
		q := create(t, r, draft("rejected"))
		got, err := r.Settle(t.Context(), tenant, promise.ByID(q.ID), rejected(""))
		require.NoError(t, err)
		require.Equal(t, promise.SettleResult{PromiseID: q.ID, State: promise.Rejected, Outcome: promise.OutcomeSettled}, got)
		got, err = r.Settle(t.Context(), tenant, promise.ByID(q.ID), rejected(""))
		require.NoError(t, err)
		require.Equal(t, promise.OutcomeDuplicate, got.Outcome)
		stored, err := r.Get(t.Context(), tenant, promise.ByID(q.ID))
		require.NoError(t, err)
		require.Empty(t, *stored.Message)
		require.Nil(t, stored.Value)
		require.Equal(t, "1 PROMISE_CREATED\n2 PROMISE_REJECTED", events(t, db, q.WorkflowExecutionID))
	})
	t.Run("a cancelled promise stays cancelled", func(t *testing.T) {
		c := create(t, r, draft("cancelled"))
		db.Exec(t, "UPDATE promise SET resolved = TRUE, outcome = 'cancelled', resolved_at = NOW() WHERE id = $1", c.ID)
		got, err := r.Settle(t.Context(), tenant, promise.ByID(c.ID), resolved([]byte("1")))
		require.NoError(t, err)
		require.Equal(t, promise.SettleResult{PromiseID: c.ID, State: promise.Cancelled, Outcome: promise.OutcomeCancelled}, got)
	})
}

func TestForeignAndUnknown(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	db.Tenant(t, "other")
	ctx := t.Context()
	d := withKey(draft("payment"), "k", time.Hour)
	p := create(t, r, d)
	before := fmt.Sprint(count(t, db, "SELECT SUM(last_sequence_number) FROM workflow_execution"))

	for name, slug := range map[string]string{"another tenant": "other", "an unknown tenant": "nobody"} {
		for call, err := range map[string]error{
			"get by id":     errOf(r.Get(ctx, slug, promise.ByID(p.ID))),
			"get by key":    errOf(r.Get(ctx, slug, byKey(t, "k"))),
			"get by name":   errOf(r.GetByWorkflowAndName(ctx, slug, p.WorkflowExecutionID, p.Name)),
			"settle by id":  errOf(r.Settle(ctx, slug, promise.ByID(p.ID), resolved([]byte("1")))),
			"settle by key": errOf(r.Settle(ctx, slug, byKey(t, "k"), rejected("x"))),
			"create":        errOf(r.Create(ctx, slug, d)),
			"find by key":   errOf(r.FindPromiseByIdempotencyKey(ctx, slug, "k")),
			"add a key":     r.AddIdempotencyKey(ctx, slug, "k2", p.ID, time.Hour),
		} {
			t.Run(call+", "+name, func(t *testing.T) { requireNotFound(t, err) })
		}
	}
	t.Run("an unknown id", func(t *testing.T) {
		requireNotFound(t, errOf(r.Get(t.Context(), tenant, promise.ByID(uuid.New()))))
	})
	t.Run("an unknown key", func(t *testing.T) {
		requireNotFound(t, errOf(r.Settle(t.Context(), tenant, byKey(t, "unknown"), resolved([]byte("1")))))
	})
	t.Run("none of the calls changes anything", func(t *testing.T) {
		require.Equal(t, before, fmt.Sprint(count(t, db, "SELECT SUM(last_sequence_number) FROM workflow_execution")))
		require.Equal(t, 1, count(t, db, "SELECT COUNT(*) FROM promise WHERE NOT resolved"))
		require.Equal(t, 1, count(t, db, "SELECT COUNT(*) FROM workflow_event"))
	})
	t.Run("each tenant has keys of its own", func(t *testing.T) {
		ctx := t.Context()
		elsewhere, _, err := unpack(r.Create(ctx, "other", withKey(draft("payment"), "k", time.Hour)))
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
	})
}

func TestDeadline(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	past := time.Now().Add(-time.Hour)
	d := withKey(draft("late"), "k", time.Hour)
	d.TimeoutAt = &past
	p := create(t, r, d)
	t.Run("a promise with a passed deadline has timed out", func(t *testing.T) {
		require.Equal(t, promise.TimedOut, p.State)
		require.Equal(t, p.TimeoutAt, p.ResolvedAt)
	})
	t.Run("a repeated create returns it", func(t *testing.T) {
		_, created, err := unpack(r.Create(t.Context(), tenant, d))
		require.NoError(t, err)
		require.False(t, created)
	})
	for name, i := range map[string]promise.Identifier{"by id": promise.ByID(p.ID), "by key": byKey(t, "k")} {
		t.Run("settle and get return timed_out "+name, func(t *testing.T) {
			got, err := r.Settle(t.Context(), tenant, i, resolved([]byte("1")))
			require.NoError(t, err)
			require.Equal(t, promise.SettleResult{PromiseID: p.ID, State: promise.TimedOut, Outcome: promise.OutcomeTimedOut}, got)
			stored, err := r.Get(t.Context(), tenant, i)
			require.NoError(t, err)
			require.Equal(t, promise.TimedOut, stored.State)
		})
	}
	t.Run("no call records the deadline", func(t *testing.T) {
		require.Equal(t, "1 PROMISE_CREATED", events(t, db, p.WorkflowExecutionID))
	})
	t.Run("a timeout of zero has passed at once", func(t *testing.T) {
		d := draft("at once")
		d.Timeout = new(time.Duration(0))
		require.Equal(t, promise.TimedOut, create(t, r, d).State)
	})
}

// A settlement in time locks its workflow's row until it commits. Calls that come after the deadline must wait for it. Otherwise one of
// them could return timed_out for a promise that is resolved later.
func TestNoTimeoutIsReturnedBeforeASettlementInTime(t *testing.T) {
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
	wg.Go(func() { again, _, errs[2] = unpack(r.Create(ctx, tenant, d)) })
	waitForLocks(t, db, 3, "workflow_execution", "await_settlements", "settle")
	require.NoError(t, tx.Commit(ctx))
	wg.Wait()
	for _, err := range errs {
		require.NoError(t, err)
	}
	require.Equal(t, promise.Resolved, read.State)
	require.Equal(t, promise.SettleResult{PromiseID: p.ID, State: promise.Resolved, Outcome: promise.OutcomeConflict}, late)
	require.Equal(t, promise.Resolved, again.State)
}

// A settle call came before the deadline, and got the lock of its workflow's row after it. Its settlement is late.
func TestDeadlineIsJudgedAfterTheLock(t *testing.T) {
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
