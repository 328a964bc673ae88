package repository_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/promise"
	"github.com/flovyn/promises/shared/repository"
)

const callers = 64

// atOnce runs f for all callers at the same moment, each on its own connection.
func atOnce(t *testing.T, url string, f func(r *repository.Repository, caller int)) {
	t.Helper()
	conf, err := pgxpool.ParseConfig(url)
	require.NoError(t, err)
	conf.MaxConns, conf.MinConns = callers, callers
	pool, err := pgxpool.NewWithConfig(t.Context(), conf)
	require.NoError(t, err)
	defer pool.Close()
	r := repository.New(pool)
	var ready, done sync.WaitGroup
	start := make(chan struct{})
	ready.Add(callers)
	for caller := range callers {
		done.Go(func() {
			c, err := pool.Acquire(t.Context())
			if err == nil {
				c.Release()
			}
			ready.Done()
			<-start
			f(r, caller)
		})
	}
	ready.Wait()
	close(start)
	done.Wait()
}

func TestManySettleOnePromise(t *testing.T) {
	t.Parallel()
	for round := range 5 {
		r, db := setUp(t)
		p := create(t, r, withKey(draft("contended"), "k", time.Hour))
		answers, errs := make([]promise.SettleResult, callers), make([]error, callers)
		atOnce(t, db.URL, func(r *repository.Repository, caller int) {
			i := promise.ByID(p.ID)
			if caller%2 == 0 {
				i, _ = promise.ByIdempotencyKey("k")
			}
			if caller%3 == 0 {
				answers[caller], errs[caller] = r.Settle(context.Background(), tenant, i, rejected(fmt.Sprint(caller)))
			} else {
				answers[caller], errs[caller] = r.Settle(context.Background(), tenant, i, resolved(fmt.Append(nil, caller)))
			}
		})
		stored, err := r.Get(t.Context(), tenant, promise.ByID(p.ID))
		require.NoError(t, err)
		winners := 0
		for caller, got := range answers {
			require.NoError(t, errs[caller])
			require.Equal(t, p.ID, got.PromiseID)
			require.Equal(t, stored.State, got.State, "every call returns the stored state")
			if got.Outcome == promise.OutcomeSettled {
				winners++
				if stored.State == promise.Resolved {
					require.Equal(t, fmt.Sprint(caller), string(stored.Value))
				} else {
					require.Equal(t, fmt.Sprint(caller), *stored.Message)
				}
			} else {
				require.Equal(t, promise.OutcomeConflict, got.Outcome)
			}
		}
		require.Equal(t, 1, winners, "round %d", round)
		require.Equal(t, "1 PROMISE_CREATED\n2 PROMISE_"+strings.ToUpper(string(stored.State)),
			events(t, db, p.WorkflowExecutionID))
		require.Equal(t, 2, count(t, db, "SELECT last_sequence_number FROM workflow_execution"), "the losers take no number")
	}
}

func TestManyCreateOnePromise(t *testing.T) {
	t.Parallel()
	for name, d := range map[string]promise.Draft{
		"without a key": draft("contended"), "with a key": withKey(draft("contended"), "k", time.Hour),
	} {
		t.Run(name, func(t *testing.T) {
			r, db := setUp(t)
			promises, created, errs := make([]promise.Promise, callers), make([]bool, callers), make([]error, callers)
			atOnce(t, db.URL, func(r *repository.Repository, caller int) {
				promises[caller], created[caller], errs[caller] = unpack(r.Create(context.Background(), tenant, d))
			})
			winners := 0
			for caller := range callers {
				require.NoError(t, errs[caller])
				require.Equal(t, promises[0], promises[caller])
				if created[caller] {
					winners++
				}
			}
			require.Equal(t, 1, winners)
			require.Equal(t, 1, count(t, db, "SELECT COUNT(*) FROM promise"))
			require.Equal(t, "1 PROMISE_CREATED", events(t, db, d.WorkflowExecutionID))
			require.Equal(t, 1, count(t, db, "SELECT last_sequence_number FROM workflow_execution"))
			stored, err := r.Get(t.Context(), tenant, promise.ByID(promises[0].ID))
			require.NoError(t, err)
			require.Equal(t, promises[0], stored)
		})
	}
}

// Many callers create promises of their own with one key, in one workflow and in many. The key is new, or the expired key of a settled
// promise.
func TestManyCreateWithOneKey(t *testing.T) {
	t.Parallel()
	for _, takeover := range []bool{false, true} {
		for _, workflows := range []int{1, callers} {
			t.Run(fmt.Sprintf("%d workflows, an expired key: %v", workflows, takeover), func(t *testing.T) {
				r, db := setUp(t)
				before := 0
				if takeover {
					p := create(t, r, withKey(draft("old"), "k", time.Hour))
					_, err := r.Settle(t.Context(), tenant, promise.ByID(p.ID), resolved([]byte("1")))
					require.NoError(t, err)
					db.Exec(t, "UPDATE idempotency_key SET expires_at = NOW()")
					before = 1
				}
				ids := make([]uuid.UUID, workflows)
				for i := range ids {
					ids[i] = uuid.New()
				}
				promises, errs := make([]promise.Promise, callers), make([]error, callers)
				atOnce(t, db.URL, func(r *repository.Repository, caller int) {
					d := promise.Draft{WorkflowExecutionID: ids[caller%workflows], Name: fmt.Sprint(caller)}
					promises[caller], _, errs[caller] = unpack(r.Create(context.Background(), tenant, withKey(d, "k", time.Hour)))
				})
				holder, err := r.FindPromiseByIdempotencyKey(t.Context(), tenant, "k")
				require.NoError(t, err)
				winners := 0
				for caller, err := range errs {
					if err == nil {
						winners++
						require.Equal(t, holder, promises[caller].ID)
					} else {
						require.Equal(t, holder, requireCode(t, promise.CodeKeyConflict, err).ExistingPromiseID)
					}
				}
				require.Equal(t, 1, winners)
				require.Equal(t, before+1, count(t, db, "SELECT COUNT(*) FROM promise"), "the losers' promises do not exist")
				require.Equal(t, before+1, count(t, db, "SELECT COUNT(*) FROM workflow_execution"))
				requireDense(t, db)
			})
		}
	}
}

// Many callers create, settle and expire a few promises and keys. Nothing deadlocks or fails, and the logs have no gaps.
func TestEverythingAtOnce(t *testing.T) {
	t.Parallel()
	_, db := setUp(t)
	workflows := []uuid.UUID{uuid.New(), uuid.New(), uuid.New()}
	ctx := context.Background()
	failures := make(chan error, callers*100)
	atOnce(t, db.URL, func(r *repository.Repository, caller int) {
		for n := range 30 {
			d := promise.Draft{WorkflowExecutionID: workflows[(caller+n)%3], Name: fmt.Sprint(n % 10)}
			key := fmt.Sprint("k", (caller*7+n)%10)
			p, _, err := unpack(r.Create(ctx, tenant, withKey(d, key, time.Millisecond)))
			switch e := promise.AsError(err); {
			case err == nil:
				if _, err := r.Settle(ctx, tenant, promise.ByID(p.ID), resolved([]byte("1"))); err != nil {
					failures <- err
				}
			case e.Code == promise.CodeKeyConflict || e.Code == promise.CodeCreateConflict:
			default:
				failures <- err
			}
			i, _ := promise.ByIdempotencyKey(key)
			if _, err := r.Settle(ctx, tenant, i, rejected("x")); err != nil && promise.AsError(err).Code != promise.CodeNotFound {
				failures <- err
			}
			if _, err := r.ExpireIdempotencyKeys(ctx, 5); err != nil {
				failures <- err
			}
		}
	})
	close(failures)
	for err := range failures {
		require.NoError(t, err)
	}
	requireDense(t, db)
	require.Zero(t, count(t, db, "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"))
	require.Zero(t, count(t, db, `SELECT COUNT(*) FROM promise p WHERE resolved AND NOT EXISTS (
		SELECT FROM workflow_event e WHERE e.workflow_execution_id = p.workflow_execution_id
		AND e.sequence_number = p.resolved_by_sequence AND e.promise_id = p.id)`))
	require.Zero(t, count(t, db, `SELECT COUNT(*) FROM promise p WHERE NOT EXISTS (
		SELECT FROM workflow_event e WHERE e.workflow_execution_id = p.workflow_execution_id
		AND e.sequence_number = p.created_by_sequence AND e.promise_id = p.id)`))
}

// A workflow execution belongs to the tenant whose create came first. The other tenant's creates fail.
func TestTwoTenantsCreateOneWorkflow(t *testing.T) {
	t.Parallel()
	_, db := setUp(t)
	db.Tenant(t, "other")
	for range 20 {
		workflow := uuid.New()
		errs := make([]error, callers)
		atOnce(t, db.URL, func(r *repository.Repository, caller int) {
			_, _, errs[caller] = unpack(r.Create(context.Background(), []string{tenant, "other"}[caller%2],
				promise.Draft{WorkflowExecutionID: workflow, Name: fmt.Sprint(caller)}))
		})
		owner := 0
		if errs[0] != nil {
			owner = 1
		}
		for caller, err := range errs {
			if caller%2 == owner {
				require.NoError(t, err)
			} else {
				requireNotFound(t, err)
			}
		}
	}
	requireDense(t, db)
}

// While a settle call by key waits, another transaction settles the promise, and a new promise takes the expired key. The call returns
// the result for the old promise, and does not settle the new one.
func TestALostRaceStaysWithItsPromise(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	ctx := t.Context()
	p := create(t, r, withKey(draft("first"), "k", time.Hour))
	db.Exec(t, "UPDATE idempotency_key SET expires_at = NOW() - INTERVAL '1 hour'")
	tx, err := db.Pool.Begin(ctx)
	require.NoError(t, err)
	first := repository.New(tx)
	_, err = first.Settle(ctx, tenant, promise.ByID(p.ID), rejected("too late"))
	require.NoError(t, err)
	q, _, err := unpack(first.Create(ctx, tenant, withKey(draft("second"), "k", time.Hour)))
	require.NoError(t, err)

	var got promise.SettleResult
	var batch []promise.ItemResult
	errs := make([]error, 2)
	var wg sync.WaitGroup
	i := byKey(t, "k")
	wg.Go(func() { got, errs[0] = r.Settle(ctx, tenant, i, resolved([]byte("1"))) })
	wg.Go(func() {
		batch, errs[1] = r.SettleBatch(ctx, tenant, byDirect, []promise.Item{item(i, resolved([]byte("1")))})
	})
	waitForLocks(t, db, 2, "promise", "settle", "settle_batch")
	require.NoError(t, tx.Commit(ctx))
	wg.Wait()
	require.Equal(t, make([]error, 2), errs)
	want := promise.SettleResult{PromiseID: p.ID, State: promise.Rejected, Outcome: promise.OutcomeConflict}
	require.Equal(t, want, got)
	require.Equal(t, []promise.ItemResult{{SettleResult: want}}, batch)
	stored, err := r.Get(ctx, tenant, promise.ByID(q.ID))
	require.NoError(t, err)
	require.Equal(t, promise.Pending, stored.State)
}

// A create saw an expired key and waits for a lock. Meanwhile the key is registered for its old promise again. The key stays with that
// promise.
func TestARenewedKeyIsNotTakenOver(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	ctx := t.Context()
	p := create(t, r, withKey(draft("first"), "k", time.Hour))
	_, err := r.Settle(ctx, tenant, promise.ByID(p.ID), resolved([]byte("1")))
	require.NoError(t, err)
	db.Exec(t, "UPDATE idempotency_key SET expires_at = NOW() - INTERVAL '1 hour'")
	second := withKey(draft("second"), "k", time.Hour)
	create(t, r, promise.Draft{WorkflowExecutionID: second.WorkflowExecutionID, Name: "existing"})
	tx, err := db.Pool.Begin(ctx)
	require.NoError(t, err)
	_, err = tx.Exec(ctx, "SELECT FROM workflow_execution WHERE id = $1 FOR UPDATE", second.WorkflowExecutionID)
	require.NoError(t, err)
	var createErr error
	var wg sync.WaitGroup
	wg.Go(func() { _, _, createErr = unpack(r.Create(ctx, tenant, second)) })
	waitForLocks(t, db, 1, "promise", "create")
	require.NoError(t, r.AddIdempotencyKey(ctx, tenant, "k", p.ID, time.Hour))
	require.NoError(t, tx.Commit(ctx))
	wg.Wait()
	require.Equal(t, p.ID, requireCode(t, promise.CodeKeyConflict, createErr).ExistingPromiseID)
}

// A timeout counts from the creation, not from the moment when the call began to wait for the workflow's row.
func TestTimeoutCountsFromTheCreation(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	ctx := t.Context()
	d := draft("second")
	create(t, r, promise.Draft{WorkflowExecutionID: d.WorkflowExecutionID, Name: "first"})
	timeout := time.Minute
	d.Timeout = &timeout
	tx, err := db.Pool.Begin(ctx)
	require.NoError(t, err)
	_, err = tx.Exec(ctx, "SELECT FROM workflow_execution FOR UPDATE")
	require.NoError(t, err)
	var p promise.Promise
	var createErr error
	var wg sync.WaitGroup
	wg.Go(func() { p, _, createErr = unpack(r.Create(ctx, tenant, d)) })
	waitForLocks(t, db, 1, "promise", "create")
	var released time.Time
	require.NoError(t, tx.QueryRow(ctx, "SELECT CLOCK_TIMESTAMP()").Scan(&released))
	require.NoError(t, tx.Commit(ctx))
	wg.Wait()
	require.NoError(t, createErr)
	require.True(t, p.CreatedAt.After(released))
	require.Equal(t, timeout, p.TimeoutAt.Sub(p.CreatedAt))
}
