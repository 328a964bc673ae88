package repository_test

import (
	"context"
	"fmt"
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

func TestKeyOfAnotherPromise(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	p := create(t, r, withKey(draft("first"), "k", time.Hour))
	second := withKey(draft("second"), "k", time.Hour)
	_, _, err := made(r.Create(t.Context(), tenant, second))
	require.Equal(t, p.ID, requireCode(t, promise.CodeKeyConflict, err).ExistingPromiseID)
	require.Equal(t, 1, count(t, db, "SELECT COUNT(*) FROM promise"))
	require.Equal(t, 1, count(t, db, "SELECT COUNT(*) FROM workflow_execution"))
	require.Equal(t, 1, count(t, db, "SELECT COUNT(*) FROM workflow_event"))
}

func TestKeyOutlivesItsTimeWhilePending(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	ctx := t.Context()
	p := create(t, r, withKey(draft("first"), "k", time.Hour))
	db.Exec(t, "UPDATE idempotency_key SET expires_at = NOW() - INTERVAL '1 day'")

	db.Exec(t, "UPDATE idempotency_key SET check_at = NOW()")
	expired, err := r.ExpireIdempotencyKeys(ctx, 10)
	require.NoError(t, err)
	require.Equal(t, promise.ExpireKeysResult{Examined: 1}, expired)
	second := withKey(draft("second"), "k", time.Hour)
	_, _, err = made(r.Create(ctx, tenant, second))
	requireCode(t, promise.CodeKeyConflict, err)
	found, err := r.FindPromiseByIdempotencyKey(ctx, tenant, "k")
	require.NoError(t, err)
	require.Equal(t, p.ID, found)
	got, err := r.Settle(ctx, tenant, byKey(t, "k"), resolved([]byte("1")))
	require.NoError(t, err)
	require.Equal(t, promise.OutcomeSettled, got.Outcome)

	// Settled and expired: a create may take the key over. Until one does, the key names its promise for seven days.
	got, err = r.Settle(ctx, tenant, byKey(t, "k"), resolved([]byte("1")))
	require.NoError(t, err)
	require.Equal(t, promise.SettleResult{PromiseID: p.ID, State: promise.Resolved, Outcome: promise.OutcomeDuplicate}, got)
	found, err = r.FindPromiseByIdempotencyKey(ctx, tenant, "k")
	require.NoError(t, err)
	require.Equal(t, p.ID, found)
	stored, err := r.Get(ctx, tenant, byKey(t, "k"))
	require.NoError(t, err)
	require.Equal(t, p.ID, stored.ID)
	_, err = r.Extend(ctx, tenant, byKey(t, "k"), promise.Deadline{Timeout: new(time.Hour)})
	require.Equal(t, p.ID, requireCode(t, promise.CodeConflict, err).SettleResult.PromiseID)
	tx, err := db.Pool.Begin(ctx)
	require.NoError(t, err)
	defer tx.Rollback(context.WithoutCancel(ctx)) //nolint:errcheck // all of it is taken back
	_, err = tx.Exec(ctx, dbtest.Unbound)
	require.NoError(t, err)
	_, err = tx.Exec(ctx, "UPDATE promise SET resolved_at = NOW() - INTERVAL '168 hours'")
	require.NoError(t, err)
	later := repository.New(tx)
	for _, err := range []error{
		errOf(later.Settle(ctx, tenant, byKey(t, "k"), resolved([]byte("1")))),
		errOf(later.Get(ctx, tenant, byKey(t, "k"))),
		errOf(later.FindPromiseByIdempotencyKey(ctx, tenant, "k")),
		errOf(later.Extend(ctx, tenant, byKey(t, "k"), promise.Deadline{Timeout: new(time.Hour)})),
	} {
		require.Equal(t, error(promise.ErrNotFound), err)
	}
	require.NoError(t, tx.Rollback(ctx))

	q := create(t, r, second)
	found, err = r.FindPromiseByIdempotencyKey(ctx, tenant, "k")
	require.NoError(t, err)
	require.Equal(t, q.ID, found)
	require.Equal(t, 1, count(t, db, "SELECT COUNT(*) FROM idempotency_key"))
	old, err := r.Get(ctx, tenant, promise.ByID(p.ID))
	require.NoError(t, err)
	require.Equal(t, "k", *old.IdempotencyKey)
	expired, err = r.ExpireIdempotencyKeys(ctx, 10)
	require.NoError(t, err)
	require.Zero(t, expired)
}

func errOf[T any](_ T, err error) error { return err }

// A call that began before the key's time was over, and finds a settled promise after it, finds none.
func TestKeyIsOverWhenThePromiseIsRead(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	create(t, r, withKey(draft("first"), "k", time.Hour))
	_, err := r.Settle(t.Context(), tenant, byKey(t, "k"), resolved([]byte("1")))
	require.NoError(t, err)
	tx, err := db.Pool.Begin(t.Context()) // NOW() stands still in it
	require.NoError(t, err)
	defer tx.Rollback(context.WithoutCancel(t.Context())) //nolint:errcheck // nothing was written
	again, err := repository.New(tx).Settle(t.Context(), tenant, byKey(t, "k"), resolved([]byte("1")))
	require.NoError(t, err)
	require.Equal(t, promise.OutcomeDuplicate, again.Outcome)
	db.Exec(t, "UPDATE idempotency_key SET expires_at = CLOCK_TIMESTAMP()")
	db.Rewrite(t, "UPDATE promise SET resolved_at = CLOCK_TIMESTAMP() - INTERVAL '168 hours'")
	_, err = repository.New(tx).Settle(t.Context(), tenant, byKey(t, "k"), resolved([]byte("1")))
	require.Equal(t, error(promise.ErrNotFound), err)
}

func TestKeysOfTimedOutPromisesExpire(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	past := time.Now().Add(-8 * 24 * time.Hour)
	for _, name := range []string{"a", "b", "c"} {
		d := withKey(draft(name), name, time.Hour)
		d.TimeoutAt = &past
		create(t, r, d)
	}
	db.Exec(t, "UPDATE idempotency_key SET check_at = NOW()")
	db.Exec(t, "UPDATE idempotency_key SET expires_at = NOW() - INTERVAL '1 second' WHERE key <> 'c'")
	create(t, r, withKey(draft("again"), "a", time.Hour))
	expired, err := r.ExpireIdempotencyKeys(t.Context(), 10)
	require.NoError(t, err)
	require.Equal(t, promise.ExpireKeysResult{Examined: 2}, expired, "nothing has recorded the deadlines yet, and a has been taken over")
	_, err = r.Expire(t.Context(), 10)
	require.NoError(t, err)
	expired, err = r.ExpireIdempotencyKeys(t.Context(), 10)
	require.NoError(t, err)
	require.Zero(t, expired, "the keys of pending promises are not read again")
	db.Exec(t, "UPDATE idempotency_key SET check_at = NOW()")
	expired, err = r.ExpireIdempotencyKeys(t.Context(), 10)
	require.NoError(t, err)
	require.Equal(t, promise.ExpireKeysResult{Examined: 3, Released: 1}, expired, "b alone: a has been taken over, and c has not expired")
	require.Equal(t, 2, count(t, db, "SELECT COUNT(*) FROM idempotency_key WHERE check_at > NOW()"))
	_, err = r.FindPromiseByIdempotencyKey(t.Context(), tenant, "c")
	require.NoError(t, err)
}

func TestExpireKeysIsBounded(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	past := time.Now().Add(-8 * 24 * time.Hour)
	due := func(names ...string) {
		for _, name := range names {
			d := withKey(draft(name), name, time.Hour)
			d.TimeoutAt = &past
			create(t, r, d)
		}
		db.Exec(t, "UPDATE idempotency_key SET expires_at = NOW() - INTERVAL '1 second', check_at = NOW()")
		_, err := r.Expire(t.Context(), 10)
		require.NoError(t, err)
	}
	due("a", "b", "c")
	for _, want := range []int{2, 1, 0} {
		expired, err := r.ExpireIdempotencyKeys(t.Context(), 2)
		require.NoError(t, err)
		require.Equal(t, promise.ExpireKeysResult{Examined: want, Released: want}, expired)
	}

	// Rows that another transaction has locked are skipped.
	due("d")
	tx, err := db.Pool.Begin(t.Context())
	require.NoError(t, err)
	_, err = tx.Exec(t.Context(), "SELECT FROM idempotency_key FOR UPDATE")
	require.NoError(t, err)
	expired, err := r.ExpireIdempotencyKeys(t.Context(), 2)
	require.NoError(t, err)
	require.Zero(t, expired)
	require.NoError(t, tx.Rollback(t.Context()))
}

func TestCreateForPromise(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	ctx := t.Context()
	p := create(t, r, withKey(draft("first"), "k1", time.Hour))
	q := create(t, r, draft("second"))

	require.NoError(t, r.AddIdempotencyKey(ctx, tenant, "k2", p.ID, time.Hour))
	require.NoError(t, r.AddIdempotencyKey(ctx, tenant, "k2", p.ID, time.Hour))
	err := r.AddIdempotencyKey(ctx, tenant, "k2", q.ID, time.Hour)
	require.Equal(t, p.ID, requireCode(t, promise.CodeKeyConflict, err).ExistingPromiseID)
	require.Equal(t, error(promise.ErrNotFound), r.AddIdempotencyKey(ctx, tenant, "k3", uuid.New(), time.Hour))

	// Either key is one that the promise was given: creating it again with either is no conflict.
	d := promise.Draft{WorkflowExecutionID: p.WorkflowExecutionID, Name: p.Name}
	for _, key := range []string{"k1", "k2"} {
		_, created, err := made(r.Create(ctx, tenant, withKey(d, key, time.Hour)))
		require.NoError(t, err)
		require.False(t, created)
	}
	got, err := r.Settle(ctx, tenant, byKey(t, "k2"), resolved([]byte("1")))
	require.NoError(t, err)
	require.Equal(t, promise.SettleResult{PromiseID: p.ID, State: promise.Resolved, Outcome: promise.OutcomeSettled}, got)
	got, err = r.Settle(ctx, tenant, byKey(t, "k1"), resolved([]byte("1")))
	require.NoError(t, err)
	require.Equal(t, promise.OutcomeDuplicate, got.Outcome)

	db.Exec(t, "UPDATE idempotency_key SET expires_at = NOW()")
	require.NoError(t, r.AddIdempotencyKey(ctx, tenant, "k2", q.ID, time.Hour))
	found, err := r.FindPromiseByIdempotencyKey(ctx, tenant, "k2")
	require.NoError(t, err)
	require.Equal(t, q.ID, found)
}

// A key whose time is over lives on while its promise is pending. An extension that was judged in time, and has not
// committed when the deadline passes, keeps it: whoever wants the key must wait and see.
func TestAKeyIsNotTakenFromAPromiseThatIsBeingExtended(t *testing.T) {
	t.Parallel()
	for name, take := range map[string]func(r *repository.Repository, other uuid.UUID) error{
		"create": func(r *repository.Repository, _ uuid.UUID) error {
			return errOf(r.Create(context.Background(), tenant, withKey(draft("thief"), "k", time.Hour)))
		},
		"register": func(r *repository.Repository, other uuid.UUID) error {
			return r.AddIdempotencyKey(context.Background(), tenant, "k", other, time.Hour)
		},
		"hold": func(r *repository.Repository, _ uuid.UUID) error {
			settled, err := r.SettleEarly(context.Background(), tenant, "k", resolved([]byte("1")), time.Hour)
			if err == nil {
				err = &promise.Error{Code: promise.CodeKeyConflict, ExistingPromiseID: settled.PromiseID}
			}
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, db := setUp(t)
			other := create(t, r, draft("other"))
			p, tx := extendedInTime(t, db)
			taken := make(chan error, 1)
			go func() { taken <- take(r, other.ID) }()
			requireWaiting(t, db)
			expired, err := r.ExpireIdempotencyKeys(t.Context(), 10)
			require.NoError(t, err)
			require.Zero(t, expired.Released)
			require.NoError(t, tx.Commit(t.Context()))
			require.Equal(t, p.ID, requireCode(t, promise.CodeKeyConflict, <-taken).ExistingPromiseID)
		})
	}
}

// extendedInTime is a promise with key k, whose time is over. Its deadline has passed, and a transaction has extended it in
// time, and not committed.
func extendedInTime(t *testing.T, db *dbtest.DB) (promise.Promise, pgx.Tx) {
	t.Helper()
	var p promise.Promise
	tx := inTime(t, db, func(tx pgx.Tx, timeout time.Duration) bool {
		d := withKey(draft("close call, "+timeout.String()), "k", time.Millisecond)
		d.Timeout = &timeout
		p = create(t, repository.New(db.Pool), d)
		_, err := repository.New(tx).Extend(t.Context(), tenant, promise.ByID(p.ID), promise.Deadline{Timeout: new(time.Hour)})
		if err != nil {
			requireCode(t, promise.CodeTimedOut, err)
		}
		return err == nil
	})
	_, err := tx.Exec(t.Context(), "SELECT pg_sleep_until($1::TIMESTAMPTZ + INTERVAL '10 ms')", p.TimeoutAt)
	require.NoError(t, err)
	return p, tx
}

// requireWaiting waits until somebody waits for a workflow execution's row.
func requireWaiting(t *testing.T, db *dbtest.DB) {
	t.Helper()
	require.Eventually(t, func() bool {
		return count(t, db, `SELECT COUNT(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'
			AND pid = ANY(SELECT pid FROM pg_locks WHERE relation = 'workflow_execution'::REGCLASS)`) == 1
	}, time.Minute, 5*time.Millisecond)
}

// So must every other call by the key: the deadline stands only after the extension was rolled back.
func TestAKeyNamesAPromiseThatIsBeingExtended(t *testing.T) {
	t.Parallel()
	for name, call := range map[string]func(ctx context.Context, r *repository.Repository, key promise.Identifier) (any, error){
		"settle": func(ctx context.Context, r *repository.Repository, key promise.Identifier) (any, error) {
			settled, err := r.Settle(ctx, tenant, key, resolved([]byte("1")))
			return settled.Outcome, err
		},
		"settle in a batch": func(ctx context.Context, r *repository.Repository, key promise.Identifier) (any, error) {
			judged, err := r.SettleBatch(ctx, tenant, byDirect, []promise.Item{item(key, resolved([]byte("1")))})
			if err == nil {
				err = judged[0].Err
			}
			if err != nil {
				return nil, err
			}
			return judged[0].SettleResult.Outcome, nil
		},
		"get": func(ctx context.Context, r *repository.Repository, key promise.Identifier) (any, error) {
			p, err := r.Get(ctx, tenant, key)
			return p.State, err
		},
		"extend": func(ctx context.Context, r *repository.Repository, key promise.Identifier) (any, error) {
			p, err := r.Extend(ctx, tenant, key, promise.Deadline{Timeout: new(time.Hour)})
			return p.State, err
		},
	} {
		for _, extended := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, extended: %v", name, extended), func(t *testing.T) {
				t.Parallel()
				r, db := setUp(t)
				_, tx := extendedInTime(t, db)
				var got any
				done := make(chan error, 1)
				go func() {
					var err error
					got, err = call(context.WithoutCancel(t.Context()), r, byKey(t, "k"))
					done <- err
				}()
				requireWaiting(t, db)
				if !extended {
					require.NoError(t, tx.Rollback(t.Context()))
					err := <-done
					if name == "extend" {
						requireCode(t, promise.CodeTimedOut, err)
						return
					}
					require.NoError(t, err)
					require.Equal(t, map[string]any{
						"settle": promise.OutcomeTimedOut, "settle in a batch": promise.OutcomeTimedOut, "get": promise.TimedOut,
					}[name], got)
					return
				}
				require.NoError(t, tx.Commit(t.Context()))
				require.NoError(t, <-done)
				require.Equal(t, map[string]any{
					"settle": promise.OutcomeSettled, "settle in a batch": promise.OutcomeSettled,
					"get": promise.Pending, "extend": promise.Pending,
				}[name], got)
			})
		}
	}
}

// staged is a database in which something happens before a query, which is counted from 1, and before somebody waits for others.
type staged struct {
	repository.DB
	queries int
	before  map[int]func() error // an error is the query's answer
	waits   func()
}

func (s *staged) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	s.queries++
	if happens := s.before[s.queries]; happens != nil {
		if err := happens(); err != nil {
			return nil, err
		}
	}
	return s.DB.Query(ctx, sql, args...)
}

func (s *staged) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	s.waits()
	return s.DB.Exec(ctx, sql, args...)
}

// Whoever wants a key waits again for its promise's extension, where a race was lost after a first wait.
func TestAKeyIsDoubtedAgainAfterALostRace(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	d := withKey(draft("close call"), "k", time.Millisecond)
	d.TimeoutAt = new(time.Now().Add(-time.Hour))
	p := create(t, r, d)
	var tx pgx.Tx
	thief := repository.New(&staged{DB: db.Pool, before: map[int]func() error{
		2: func() error {
			tx = inTime(t, db, func(tx pgx.Tx, timeout time.Duration) bool {
				db.Exec(t, "UPDATE promise SET timeout_at = CLOCK_TIMESTAMP() + $2::INTERVAL WHERE id = $1", p.ID, timeout)
				_, err := repository.New(tx).Extend(t.Context(), tenant, promise.ByID(p.ID), promise.Deadline{Timeout: new(time.Hour)})
				return err == nil
			})
			db.Exec(t, "SELECT pg_sleep_until(timeout_at + INTERVAL '10 ms') FROM promise WHERE id = $1", p.ID)
			return &pgconn.PgError{Code: "40001"}
		},
	}, waits: func() {
		if tx != nil {
			require.NoError(t, tx.Commit(t.Context()))
		}
	}})
	_, err := thief.Create(t.Context(), tenant, withKey(draft("thief"), "k", time.Hour))
	require.Equal(t, p.ID, requireCode(t, promise.CodeKeyConflict, err).ExistingPromiseID)
}
