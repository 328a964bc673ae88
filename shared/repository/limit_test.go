package repository_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
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

func setLimits(t testing.TB, r *repository.Repository, limits map[string]int64) {
	t.Helper()
	wanted := map[string]*int64{}
	for name, n := range limits {
		wanted[name] = &n
	}
	_, err := r.SetLimits(t.Context(), tenant, wanted)
	require.NoError(t, err)
}

func requireQuota(t testing.TB, name string, limit int64, err error) {
	t.Helper()
	e := requireCode(t, promise.CodeQuotaExceeded, err)
	require.Equal(t, &promise.Quota{Name: name, Limit: limit}, e.Quota)
	require.Contains(t, e.Detail, fmt.Sprint(limit))
}

func TestPendingQuota(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	db.Tenant(t, "other")
	setLimits(t, r, map[string]int64{promise.LimitPending: 3})
	a, b := withKey(draft("a"), "a", time.Hour), draft("b")
	create(t, r, a)
	p := create(t, r, b)
	require.Empty(t, countAll(t, r, 10))
	create(t, r, draft("c"))
	late := create(t, r, draft("d")) // a tenant can exceed its limit until the next count
	t.Run("a count reports the change once", func(t *testing.T) {
		require.Equal(t, []promise.Full{{Tenant: tenant, PendingFull: true}}, countAll(t, r, 10))
		require.Empty(t, countAll(t, r, 10))
	})
	for name, d := range map[string]promise.Draft{
		"a new promise": draft("e"), "a new promise with a key": withKey(draft("e"), "e", time.Hour),
		"a new promise of an existing workflow": {WorkflowExecutionID: p.WorkflowExecutionID, Name: "e"},
	} {
		t.Run("a full tenant does not get "+name, func(t *testing.T) {
			requireQuota(t, promise.LimitPending, 3, errOf(r.Create(t.Context(), tenant, d)))
			require.Equal(t, 4, count(t, db, "SELECT COUNT(*) FROM promise"))
			require.Equal(t, 4, count(t, db, "SELECT COUNT(*) FROM workflow_execution"))
			require.Equal(t, 1, count(t, db, "SELECT COUNT(*) FROM idempotency_key"))
		})
	}
	t.Run("a repeated create returns the promise", func(t *testing.T) {
		for _, d := range []promise.Draft{a, b} {
			_, created, err := unpack(r.Create(t.Context(), tenant, d))
			require.NoError(t, err)
			require.False(t, created)
		}
	})
	t.Run("another promise's key is a key conflict", func(t *testing.T) {
		requireCode(t, promise.CodeKeyConflict, errOf(r.Create(t.Context(), tenant, withKey(draft("taken"), "a", time.Hour))))
	})
	t.Run("another tenant gets a promise", func(t *testing.T) {
		require.NoError(t, errOf(r.Create(t.Context(), "other", draft("a"))))
	})
	t.Run("a promise that is created settled does not count", func(t *testing.T) {
		settleEarly(t, r, "early", resolved([]byte("1")), promise.OutcomeHeld)
		require.Equal(t, promise.Resolved, create(t, r, withKey(draft("early"), "early", time.Hour)).State)
	})
	t.Run("settled promises make room", func(t *testing.T) {
		for _, id := range []uuid.UUID{p.ID, late.ID} {
			_, err := r.Settle(t.Context(), tenant, promise.ByID(id), resolved([]byte("1")))
			require.NoError(t, err)
		}
		require.Equal(t, []promise.Full{{Tenant: tenant}}, countAll(t, r, 1))
		create(t, r, draft("e"))
		countAll(t, r, 10)
		requireQuota(t, promise.LimitPending, 3, errOf(r.Create(t.Context(), tenant, draft("f"))))
	})
	t.Run("a new limit is in force at once", func(t *testing.T) {
		setLimits(t, r, map[string]int64{promise.LimitPending: 4})
		create(t, r, draft("f"))
		setLimits(t, r, map[string]int64{promise.LimitPending: 0})
		requireQuota(t, promise.LimitPending, 0, errOf(r.Create(t.Context(), tenant, draft("g"))))
	})
	t.Run("nil restores the default limit", func(t *testing.T) {
		found, err := r.SetLimits(t.Context(), tenant, map[string]*int64{promise.LimitPending: nil})
		require.NoError(t, err)
		require.Equal(t, promise.LimitsInForce(nil), found.Limits)
		create(t, r, draft("g"))
	})
}

func TestEarlySettlementQuota(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	db.Tenant(t, "other")
	setLimits(t, r, map[string]int64{promise.LimitEarly: 2, promise.LimitEarlyBytes: 1000})
	value := []byte(`"` + strings.Repeat("x", 40) + `"`)
	settleEarly(t, r, "a", resolved(value), promise.OutcomeHeld)
	require.Empty(t, countAll(t, r, 10))
	settleEarly(t, r, "b", rejected("ä"), promise.OutcomeHeld)
	require.Equal(t, []promise.Full{{Tenant: tenant, EarlyFull: true}}, countAll(t, r, 1))
	tenants, err := r.ListTenants(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, 1+42+1+2, tenants[0].Usage.EarlyBytes)

	t.Run("a full tenant stores no early settlement", func(t *testing.T) {
		_, err := r.SettleEarly(t.Context(), tenant, "c", resolved(value), time.Hour)
		requireQuota(t, promise.LimitEarly, 2, err)
		require.Equal(t, 2, count(t, db, "SELECT COUNT(*) FROM idempotency_key"))
	})
	t.Run("a stored one is still compared", func(t *testing.T) {
		settleEarly(t, r, "a", resolved(value), promise.OutcomeDuplicate)
		settleEarly(t, r, "a", rejected("no"), promise.OutcomeConflict)
	})
	t.Run("another tenant stores one", func(t *testing.T) {
		require.NoError(t, errOf(r.SettleEarly(t.Context(), "other", "c", resolved(value), time.Hour)))
	})
	t.Run("an existing promise is settled", func(t *testing.T) {
		p := create(t, r, withKey(draft("p"), "p", time.Hour))
		settled := settleEarly(t, r, "p", resolved(value), promise.OutcomeSettled)
		require.Equal(t, promise.SettleResult{PromiseID: p.ID, State: promise.Resolved, Outcome: promise.OutcomeSettled}, settled)
	})

	create(t, r, withKey(draft("a"), "a", time.Hour))
	require.Equal(t, []promise.Full{{Tenant: tenant}}, countAll(t, r, 10))
	large := resolved([]byte(`"` + strings.Repeat("x", 1000) + `"`))
	settleEarly(t, r, "c", large, promise.OutcomeHeld) // a tenant can exceed its limit until the next count
	setLimits(t, r, map[string]int64{promise.LimitEarly: 100})
	countAll(t, r, 10)
	_, err = r.SettleEarly(t.Context(), tenant, "d", resolved(value), time.Hour)
	requireQuota(t, promise.LimitEarlyBytes, 1000, err)
	db.Exec(t, "UPDATE idempotency_key SET check_at = NOW(), held_until = NOW(), expires_at = NOW() WHERE key = 'c'")
	_, err = r.ExpireIdempotencyKeys(t.Context(), 10)
	require.NoError(t, err)
	countAll(t, r, 10)
	settleEarly(t, r, "d", resolved(value), promise.OutcomeHeld)
}

// A caller with the settle scope invents keys and stores an early settlement under each. The first count that sees the limit exceeded
// stops it.
func TestAFloodOfEarlySettlementsIsBounded(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	const limit = 200
	setLimits(t, r, map[string]int64{promise.LimitEarly: limit})
	var refused, held, sent atomic.Int64
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for range 6 {
		wg.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				sent.Add(1)
				_, err := r.SettleEarly(context.Background(), tenant, uuid.NewString(), resolved([]byte("1")), time.Hour)
				switch {
				case err == nil:
					held.Add(1)
				case promise.AsError(err).Code == promise.CodeQuotaExceeded:
					refused.Add(1)
				default:
					t.Error(err)
					return
				}
			}
		})
	}
	for refused.Load() == 0 && held.Load() < 50*limit {
		countAll(t, r, 50)
	}
	bound, at := held.Load()+6, sent.Load() // calls that began before the count was stored may still store one each
	for sent.Load() < at+100 {
		countAll(t, r, 50)
	}
	close(stop)
	wg.Wait()
	require.NotZero(t, refused.Load())
	assert.LessOrEqual(t, held.Load(), bound)
	assert.GreaterOrEqual(t, held.Load(), int64(limit))
	require.EqualValues(t, held.Load(), count(t, db, "SELECT COUNT(*) FROM idempotency_key"))
}

// After random calls the counts equal the rows, in slices of any size.
func TestCountsAreRight(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	db.Tenant(t, "other")
	db.Tenant(t, "empty")
	random := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // no secret
	ctx := t.Context()
	var ids []uuid.UUID
	for n := range 300 {
		who := []string{tenant, "other"}[random.IntN(2)]
		key := fmt.Sprint("k", random.IntN(60))
		switch random.IntN(4) {
		case 0, 1:
			d := draft(fmt.Sprint("p", n))
			if random.IntN(2) == 0 {
				d = withKey(d, key, time.Hour)
			}
			if p, _, err := unpack(r.Create(ctx, who, d)); err == nil && who == tenant {
				ids = append(ids, p.ID)
			}
		case 2:
			s := rejected(strings.Repeat("ü", random.IntN(20)))
			s.Comment = new("because")
			_, err := r.SettleEarly(ctx, who, key, s, time.Hour)
			require.NoError(t, err)
		case 3:
			if len(ids) > 0 {
				_, err := r.Settle(ctx, tenant, promise.ByID(ids[random.IntN(len(ids))]), resolved([]byte("1")))
				require.NoError(t, err)
			}
		}
	}
	db.Rewrite(t, `UPDATE promise SET created_at = '2026-01-01' WHERE name LIKE 'p1%'`) // many promises have equal creation times
	for _, slice := range []int{1, 7, 1000} {
		t.Run(fmt.Sprintf("in slices of %d", slice), func(t *testing.T) {
			db.Exec(t, "DELETE FROM tenant_usage")
			countAll(t, r, slice)
			tenants, err := r.ListTenants(t.Context())
			require.NoError(t, err)
			require.Len(t, tenants, 3)
			for _, found := range tenants {
				require.EqualValues(t, count(t, db, "SELECT COUNT(*) FROM promise WHERE tenant_id = $1 AND NOT resolved", found.ID), found.Usage.Pending)
				require.EqualValues(t, count(t, db, "SELECT COUNT(held_at) FROM idempotency_key WHERE tenant_id = $1", found.ID), found.Usage.Early)
				require.EqualValues(t, count(t, db, `SELECT COALESCE(SUM(LENGTH(key) + OCTET_LENGTH(held_error) + LENGTH(held_comment)), 0)
					FROM idempotency_key WHERE tenant_id = $1`, found.ID), found.Usage.EarlyBytes)
			}
		})
	}
	require.NotZero(t, count(t, db, "SELECT MIN(held) FROM tenant_usage WHERE held > 0"))
}

// An older count does not replace a newer one.
func TestCountsOfTwoSweeps(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	setLimits(t, r, map[string]int64{promise.LimitPending: 1})
	old, err := r.Uncounted(t.Context())
	require.NoError(t, err)
	require.NoError(t, r.CountMore(t.Context(), old, 10))
	create(t, r, draft("a"))
	require.Len(t, countAll(t, r, 10), 1)
	changed, err := r.StoreCounts(t.Context(), old)
	require.NoError(t, err)
	require.Empty(t, changed)
	require.Equal(t, 1, count(t, db, "SELECT pending FROM tenant_usage"))
}

func TestWorkflowQuota(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	setLimits(t, r, map[string]int64{promise.LimitWorkflowPromises: 3})
	workflow := uuid.New()
	in := func(name string) promise.Draft { return promise.Draft{WorkflowExecutionID: workflow, Name: name} }
	minuteLater := func(t *testing.T) {
		t.Helper()
		db.Exec(t, "UPDATE workflow_execution SET promises_counted_at = promises_counted_at - INTERVAL '1 minute'")
	}
	refused := func(t *testing.T, d promise.Draft) {
		t.Helper()
		_, err := r.Create(t.Context(), tenant, d)
		requireQuota(t, promise.LimitWorkflowPromises, 3, err)
	}
	a := create(t, r, in("a"))
	create(t, r, withKey(in("b"), "b", time.Hour))
	create(t, r, in("c"))
	t.Run("a full workflow gets no promise, and loses no number", func(t *testing.T) {
		last := count(t, db, "SELECT last_sequence_number FROM workflow_execution")
		refused(t, in("d"))
		refused(t, withKey(in("d"), "d", time.Hour))
		require.Equal(t, 3, count(t, db, "SELECT COUNT(*) FROM promise"))
		require.Equal(t, last, count(t, db, "SELECT last_sequence_number FROM workflow_execution"))
	})
	t.Run("a repeated create returns the promise", func(t *testing.T) {
		_, created, err := unpack(r.Create(t.Context(), tenant, in("a")))
		require.NoError(t, err)
		require.False(t, created)
	})
	t.Run("another workflow gets a promise", func(t *testing.T) { create(t, r, draft("in another workflow")) })
	t.Run("a deleted promise makes room at the next recount, a minute after the last", func(t *testing.T) {
		_, err := r.Settle(t.Context(), tenant, promise.ByID(a.ID), resolved([]byte("1")))
		require.NoError(t, err)
		_, err = r.DeleteSettled(t.Context(), 0, 10)
		require.NoError(t, err)
		require.Equal(t, 2, count(t, db, "SELECT COUNT(*) FROM promise WHERE workflow_execution_id = $1", workflow))
		refused(t, in("d"))
		minuteLater(t)
		create(t, r, in("d"))
		refused(t, in("e"))
		minuteLater(t)
		refused(t, in("e"))
	})
	t.Run("a higher limit makes room", func(t *testing.T) {
		setLimits(t, r, map[string]int64{promise.LimitWorkflowPromises: 5})
		minuteLater(t)
		create(t, r, in("e"))
	})
	t.Run("a lower limit admits at most its own number of promises", func(t *testing.T) {
		setLimits(t, r, map[string]int64{promise.LimitWorkflowPromises: 3})
		minuteLater(t)
		for n := 0; ; n++ {
			_, err := r.Create(t.Context(), tenant, in(fmt.Sprint("f", n)))
			if err != nil {
				requireQuota(t, promise.LimitWorkflowPromises, 3, err)
				break
			}
			require.Less(t, n, 3)
		}
	})
	t.Run("a workflow with more room than a new limit is recounted", func(t *testing.T) {
		_, err := r.SetLimits(t.Context(), tenant, map[string]*int64{promise.LimitWorkflowPromises: nil})
		require.NoError(t, err)
		minuteLater(t)
		create(t, r, in("g"))
		setLimits(t, r, map[string]int64{promise.LimitWorkflowPromises: 3})
		refused(t, in("h"))
	})
}

// An execution that is older than the quota has no count. Its last sequence number is used as the count until that number reaches the
// limit. Then the promises are counted.
func TestWorkflowQuotaOfAnExecutionWithoutACount(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	setLimits(t, r, map[string]int64{promise.LimitWorkflowPromises: 4})
	p := create(t, r, draft("a"))
	_, err := r.Settle(t.Context(), tenant, promise.ByID(p.ID), resolved([]byte("1")))
	require.NoError(t, err)
	db.Exec(t, "UPDATE workflow_execution SET promises_left = NULL")
	in := func(name string) promise.Draft {
		return promise.Draft{WorkflowExecutionID: p.WorkflowExecutionID, Name: name}
	}
	create(t, r, in("b"))
	require.Equal(t, 1, count(t, db, "SELECT promises_left FROM workflow_execution"))
	create(t, r, in("c"))
	create(t, r, in("d"))
	_, err = r.Create(t.Context(), tenant, in("e"))
	requireQuota(t, promise.LimitWorkflowPromises, 4, err)
	db.Exec(t, "UPDATE workflow_execution SET promises_left = NULL, promises_counted_at = NULL")
	_, err = r.Create(t.Context(), tenant, in("e"))
	requireQuota(t, promise.LimitWorkflowPromises, 4, err)
}

// Concurrent creates in one execution create exactly as many promises as its limit.
func TestWorkflowQuotaAtOnce(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	const limit = 20
	setLimits(t, r, map[string]int64{promise.LimitWorkflowPromises: limit})
	workflow := uuid.New()
	var wg sync.WaitGroup
	for worker := range 6 {
		wg.Go(func() {
			for n := range 10 {
				d := promise.Draft{WorkflowExecutionID: workflow, Name: fmt.Sprint(worker, "-", n)}
				_, err := r.Create(context.Background(), tenant, d)
				if err != nil && promise.AsError(err).Code != promise.CodeQuotaExceeded {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	require.Equal(t, limit, count(t, db, "SELECT COUNT(*) FROM promise"))
	require.Equal(t, limit, count(t, db, "SELECT last_sequence_number FROM workflow_execution"))
}

// A process forgets a tenant's id long before another tenant can get the slug.
func TestATenantsIDIsForgotten(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	now := time.Now()
	r.SetClock(func() time.Time { return now })
	first, err := r.WorkflowExecutionID(t.Context(), tenant, "order-1")
	require.NoError(t, err)
	db.Exec(t, "DELETE FROM tenant")
	db.Tenant(t, tenant)
	again, err := r.WorkflowExecutionID(t.Context(), tenant, "order-1")
	require.NoError(t, err)
	require.Equal(t, first, again)
	now = now.Add(promise.SlugReuseDelay / 2)
	another, err := r.WorkflowExecutionID(t.Context(), tenant, "order-1")
	require.NoError(t, err)
	require.NotEqual(t, first, another)
}

// No statement finds a suspended tenant.
func TestNothingFindsASuspendedTenant(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	p := create(t, r, withKey(draft("a"), "a", time.Hour))
	old := draft("b")
	old.TimeoutAt = new(time.Now().Add(-time.Hour))
	q := create(t, r, old)
	_, err := r.SuspendTenant(t.Context(), tenant, true)
	require.NoError(t, err)
	ctx, key := t.Context(), byKey(t, "a")
	before := snapshot(t, db)
	for name, call := range map[string]func() error{
		"create":       func() error { return errOf(r.Create(ctx, tenant, draft("b"))) },
		"create again": func() error { return errOf(r.Create(ctx, tenant, withKey(draft("a"), "a", time.Hour))) },
		"create in its workflow": func() error {
			return errOf(r.Create(ctx, tenant, promise.Draft{WorkflowExecutionID: p.WorkflowExecutionID, Name: "a"}))
		},
		"get":           func() error { return errOf(r.Get(ctx, tenant, promise.ByID(p.ID))) },
		"get by key":    func() error { return errOf(r.Get(ctx, tenant, key)) },
		"get, overdue":  func() error { return errOf(r.Get(ctx, tenant, promise.ByID(q.ID))) },
		"get by name":   func() error { return errOf(r.GetByWorkflowAndName(ctx, tenant, p.WorkflowExecutionID, "a")) },
		"find by key":   func() error { return errOf(r.FindPromiseByIdempotencyKey(ctx, tenant, "a")) },
		"settle":        func() error { return errOf(r.Settle(ctx, tenant, promise.ByID(p.ID), resolved([]byte("1")))) },
		"settle by key": func() error { return errOf(r.Settle(ctx, tenant, key, resolved([]byte("1")))) },
		"settle early":  func() error { return errOf(r.SettleEarly(ctx, tenant, "c", resolved([]byte("1")), time.Hour)) },
		"extend": func() error {
			return errOf(r.Extend(ctx, tenant, promise.ByID(p.ID), promise.Deadline{Timeout: new(time.Hour)}))
		},
		"extend by key": func() error {
			return errOf(r.Extend(ctx, tenant, key, promise.Deadline{Timeout: new(time.Hour)}))
		},
		"revoke tokens": func() error { return errOf(r.RevokeTokens(ctx, tenant, promise.ByID(p.ID))) },
		"add a key":     func() error { return r.AddIdempotencyKey(ctx, tenant, "c", p.ID, time.Hour) },
		"list events":   func() error { return errOf(r.ListEvents(ctx, tenant, p.WorkflowExecutionID, 0, 10)) },
		"workflow id":   func() error { return errOf(r.WorkflowExecutionID(ctx, tenant, "order-1")) },
		"list":          func() error { return errOf(pageOnly(r.ListPromises(ctx, tenant, promise.Filter{}, 10))) },
		"list a workflow": func() error {
			return errOf(pageOnly(r.ListPromises(ctx, tenant, promise.Filter{WorkflowExecutionID: &p.WorkflowExecutionID}, 10)))
		},
	} {
		t.Run(name, func(t *testing.T) { require.ErrorIs(t, call(), promise.ErrNotFound) })
	}
	t.Run("settle batch", func(t *testing.T) {
		results, err := r.SettleBatch(ctx, tenant, byDirect, []promise.Item{item(promise.ByID(p.ID), resolved([]byte("1")))})
		require.NoError(t, err)
		require.ErrorIs(t, results[0].Err, promise.ErrNotFound)
	})
	t.Run("none of the calls changes a row", func(t *testing.T) {
		require.Equal(t, before, snapshot(t, db))
	})
	t.Run("the sweep records its deadlines", func(t *testing.T) {
		e, err := r.Expire(ctx, 10)
		require.NoError(t, err)
		require.Equal(t, 1, e.Expired)
	})
	t.Run("every call finds it once it is resumed", func(t *testing.T) {
		_, err := r.SuspendTenant(ctx, tenant, false)
		require.NoError(t, err)
		require.NoError(t, errOf(r.Get(ctx, tenant, promise.ByID(p.ID))))
	})
}

// snapshot returns the contents of the tables that calls change.
func snapshot(t testing.TB, db *dbtest.DB) string {
	t.Helper()
	rows, err := db.Pool.Query(t.Context(), `SELECT (SELECT STRING_AGG(p::TEXT, ' ' ORDER BY id) FROM promise p)
		|| (SELECT STRING_AGG(w::TEXT, ' ' ORDER BY id) FROM workflow_execution w)
		|| (SELECT STRING_AGG(k::TEXT, ' ' ORDER BY key) FROM idempotency_key k)`)
	require.NoError(t, err)
	text, err := pgx.CollectExactlyOneRow(rows, pgx.RowTo[string])
	require.NoError(t, err)
	return text
}
