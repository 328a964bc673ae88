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
	_, _, err := unpack(r.Create(t.Context(), tenant, second))
	require.Equal(t, p.ID, requireCode(t, promise.CodeKeyConflict, err).ExistingPromiseID)
	require.Equal(t, 1, count(t, db, "SELECT COUNT(*) FROM promise"))
	require.Equal(t, 1, count(t, db, "SELECT COUNT(*) FROM workflow_execution"))
	require.Equal(t, 1, count(t, db, "SELECT COUNT(*) FROM workflow_event"))
}

func TestAnExpiredKey(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	p := create(t, r, withKey(draft("first"), "k", time.Hour))
	db.Exec(t, "UPDATE idempotency_key SET expires_at = NOW() - INTERVAL '1 day'")
	db.Exec(t, "UPDATE idempotency_key SET check_at = NOW()")
	second := withKey(draft("second"), "k", time.Hour)
	requireFound := func(t *testing.T, want uuid.UUID) {
		t.Helper()
		found, err := r.FindPromiseByIdempotencyKey(t.Context(), tenant, "k")
		require.NoError(t, err)
		require.Equal(t, want, found)
	}
	t.Run("the sweep keeps the key of a pending promise", func(t *testing.T) {
		expired, err := r.ExpireIdempotencyKeys(t.Context(), 10)
		require.NoError(t, err)
		require.Equal(t, promise.ExpireKeysResult{Examined: 1}, expired)
	})
	t.Run("no create takes the key of a pending promise", func(t *testing.T) {
		_, err := r.Create(t.Context(), tenant, second)
		requireCode(t, promise.CodeKeyConflict, err)
	})
	t.Run("the key names its pending promise", func(t *testing.T) {
		requireFound(t, p.ID)
		got, err := r.Settle(t.Context(), tenant, byKey(t, "k"), resolved([]byte("1")))
		require.NoError(t, err)
		require.Equal(t, promise.OutcomeSettled, got.Outcome)
	})
	t.Run("the key names its settled promise", func(t *testing.T) {
		got, err := r.Settle(t.Context(), tenant, byKey(t, "k"), resolved([]byte("1")))
		require.NoError(t, err)
		require.Equal(t, promise.SettleResult{PromiseID: p.ID, State: promise.Resolved, Outcome: promise.OutcomeDuplicate}, got)
		requireFound(t, p.ID)
		stored, err := r.Get(t.Context(), tenant, byKey(t, "k"))
		require.NoError(t, err)
		require.Equal(t, p.ID, stored.ID)
		_, err = r.Extend(t.Context(), tenant, byKey(t, "k"), promise.Deadline{Timeout: new(time.Hour)})
		require.Equal(t, p.ID, requireCode(t, promise.CodeConflict, err).SettleResult.PromiseID)
	})
	t.Run("seven days after the settlement the key names no promise", func(t *testing.T) {
		ctx := t.Context()
		tx, err := db.Pool.Begin(ctx)
		require.NoError(t, err)
		defer tx.Rollback(context.WithoutCancel(ctx)) //nolint:errcheck // the test has rolled it back by then
		_, err = tx.Exec(ctx, dbtest.Unbound)
		require.NoError(t, err)
		_, err = tx.Exec(ctx, "UPDATE promise SET resolved_at = NOW() - INTERVAL '168 hours'")
		require.NoError(t, err)
		later := repository.New(tx)
		requireNotFound(t, errOf(later.Settle(ctx, tenant, byKey(t, "k"), resolved([]byte("1")))))
		requireNotFound(t, errOf(later.Get(ctx, tenant, byKey(t, "k"))))
		requireNotFound(t, errOf(later.FindPromiseByIdempotencyKey(ctx, tenant, "k")))
		requireNotFound(t, errOf(later.Extend(ctx, tenant, byKey(t, "k"), promise.Deadline{Timeout: new(time.Hour)})))
		require.NoError(t, tx.Rollback(ctx))
	})
	t.Run("a create takes the expired key of a settled promise", func(t *testing.T) {
		q := create(t, r, second)
		requireFound(t, q.ID)
		require.Equal(t, 1, count(t, db, "SELECT COUNT(*) FROM idempotency_key"))
		old, err := r.Get(t.Context(), tenant, promise.ByID(p.ID))
		require.NoError(t, err)
		require.Equal(t, "k", *old.IdempotencyKey)
		expired, err := r.ExpireIdempotencyKeys(t.Context(), 10)
		require.NoError(t, err)
		require.Zero(t, expired)
	})
}

// A settle call started before the key stopped naming its promise, and reads the promise afterwards. It returns not found.
func TestKeyExpiresBeforeThePromiseIsRead(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	create(t, r, withKey(draft("first"), "k", time.Hour))
	_, err := r.Settle(t.Context(), tenant, byKey(t, "k"), resolved([]byte("1")))
	require.NoError(t, err)
	tx, err := db.Pool.Begin(t.Context()) // NOW() is constant in it
	require.NoError(t, err)
	defer tx.Rollback(context.WithoutCancel(t.Context())) //nolint:errcheck // nothing was written
	again, err := repository.New(tx).Settle(t.Context(), tenant, byKey(t, "k"), resolved([]byte("1")))
	require.NoError(t, err)
	require.Equal(t, promise.OutcomeDuplicate, again.Outcome)
	db.Exec(t, "UPDATE idempotency_key SET expires_at = CLOCK_TIMESTAMP()")
	db.Rewrite(t, "UPDATE promise SET resolved_at = CLOCK_TIMESTAMP() - INTERVAL '168 hours'")
	_, err = repository.New(tx).Settle(t.Context(), tenant, byKey(t, "k"), resolved([]byte("1")))
	requireNotFound(t, err)
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
	require.Equal(t, promise.ExpireKeysResult{Examined: 2}, expired, "the deadlines are not recorded yet, and a create has taken a")
	_, err = r.Expire(t.Context(), 10)
	require.NoError(t, err)
	expired, err = r.ExpireIdempotencyKeys(t.Context(), 10)
	require.NoError(t, err)
	require.Zero(t, expired, "the keys of pending promises are not read again")
	db.Exec(t, "UPDATE idempotency_key SET check_at = NOW()")
	expired, err = r.ExpireIdempotencyKeys(t.Context(), 10)
	require.NoError(t, err)
	require.Equal(t, promise.ExpireKeysResult{Examined: 3, Released: 1}, expired, "b alone: a create has taken a, and c has not expired")
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
	t.Run("each batch examines at most limit keys", func(t *testing.T) {
		for _, want := range []int{2, 1, 0} {
			expired, err := r.ExpireIdempotencyKeys(t.Context(), 2)
			require.NoError(t, err)
			require.Equal(t, promise.ExpireKeysResult{Examined: want, Released: want}, expired)
		}
	})
	due("d")
	t.Run("a batch skips locked rows", func(t *testing.T) {
		tx, err := db.Pool.Begin(t.Context())
		require.NoError(t, err)
		_, err = tx.Exec(t.Context(), "SELECT FROM idempotency_key FOR UPDATE")
		require.NoError(t, err)
		expired, err := r.ExpireIdempotencyKeys(t.Context(), 2)
		require.NoError(t, err)
		require.Zero(t, expired)
		require.NoError(t, tx.Rollback(t.Context()))
	})
}

func TestAddIdempotencyKey(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	p := create(t, r, withKey(draft("first"), "k1", time.Hour))
	q := create(t, r, draft("second"))
	add := func(t *testing.T, key string, id uuid.UUID) error {
		return r.AddIdempotencyKey(t.Context(), tenant, key, id, time.Hour)
	}
	t.Run("a repeated call changes nothing", func(t *testing.T) {
		require.NoError(t, add(t, "k2", p.ID))
		require.NoError(t, add(t, "k2", p.ID))
	})
	t.Run("another promise's key", func(t *testing.T) {
		require.Equal(t, p.ID, requireCode(t, promise.CodeKeyConflict, add(t, "k2", q.ID)).ExistingPromiseID)
	})
	t.Run("an unknown promise", func(t *testing.T) { requireNotFound(t, add(t, "k3", uuid.New())) })
	for _, key := range []string{"k1", "k2"} {
		t.Run("a repeated create with "+key+" finds the promise", func(t *testing.T) {
			d := promise.Draft{WorkflowExecutionID: p.WorkflowExecutionID, Name: p.Name}
			_, created, err := unpack(r.Create(t.Context(), tenant, withKey(d, key, time.Hour)))
			require.NoError(t, err)
			require.False(t, created)
		})
	}
	t.Run("both keys name the promise", func(t *testing.T) {
		got, err := r.Settle(t.Context(), tenant, byKey(t, "k2"), resolved([]byte("1")))
		require.NoError(t, err)
		require.Equal(t, promise.SettleResult{PromiseID: p.ID, State: promise.Resolved, Outcome: promise.OutcomeSettled}, got)
		got, err = r.Settle(t.Context(), tenant, byKey(t, "k1"), resolved([]byte("1")))
		require.NoError(t, err)
		require.Equal(t, promise.OutcomeDuplicate, got.Outcome)
	})
	t.Run("an expired key is reassigned", func(t *testing.T) {
		db.Exec(t, "UPDATE idempotency_key SET expires_at = NOW()")
		require.NoError(t, add(t, "k2", q.ID))
		found, err := r.FindPromiseByIdempotencyKey(t.Context(), tenant, "k2")
		require.NoError(t, err)
		require.Equal(t, q.ID, found)
	})
}

// An expired key stays with its promise while the promise is pending. An extension in time that has not committed when the deadline
// passes keeps the promise pending. A call that wants the key waits for it.
func TestAKeyIsNotTakenFromAPromiseThatIsBeingExtended(t *testing.T) {
	t.Parallel()
	for name, take := range map[string]func(r *repository.Repository, other uuid.UUID) error{
		"create": func(r *repository.Repository, _ uuid.UUID) error {
			return errOf(r.Create(context.Background(), tenant, withKey(draft("thief"), "k", time.Hour)))
		},
		"add the key": func(r *repository.Repository, other uuid.UUID) error {
			return r.AddIdempotencyKey(context.Background(), tenant, "k", other, time.Hour)
		},
		"settle early": func(r *repository.Repository, _ uuid.UUID) error {
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
			waitForLocks(t, db, 1, "workflow_execution")
			expired, err := r.ExpireIdempotencyKeys(t.Context(), 10)
			require.NoError(t, err)
			require.Zero(t, expired.Released)
			require.NoError(t, tx.Commit(t.Context()))
			require.Equal(t, p.ID, requireCode(t, promise.CodeKeyConflict, <-taken).ExistingPromiseID)
		})
	}
}

// A call by an expired key waits for the transaction that is extending the promise. The promise has timed out only if that transaction
// is rolled back.
func TestAKeyNamesAPromiseThatIsBeingExtended(t *testing.T) {
	t.Parallel()
	for name, call := range map[string]func(ctx context.Context, r *repository.Repository, key promise.Identifier) (any, error){
		"settle": func(ctx context.Context, r *repository.Repository, key promise.Identifier) (any, error) {
			settled, err := r.Settle(ctx, tenant, key, resolved([]byte("1")))
			return settled.Outcome, err
		},
		"settle in a batch": func(ctx context.Context, r *repository.Repository, key promise.Identifier) (any, error) {
			results, err := r.SettleBatch(ctx, tenant, byDirect, []promise.Item{item(key, resolved([]byte("1")))})
			if err == nil {
				err = results[0].Err
			}
			if err != nil {
				return nil, err
			}
			return results[0].SettleResult.Outcome, nil
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
				done, key := make(chan error, 1), byKey(t, "k")
				go func() {
					var err error
					got, err = call(context.WithoutCancel(t.Context()), r, key)
					done <- err
				}()
				waitForLocks(t, db, 1, "workflow_execution")
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

// A call that wants a key waits for a running extension again if it loses a race after its first wait.
func TestALostRaceResetsTheConfirmation(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	p := createOverdue(t, r, tenant, withKey(draft("close call"), "k", time.Millisecond), time.Hour)
	var tx pgx.Tx
	thief := repository.New(&stagedDB{
		DB: db.Pool,
		beforeQuery: func(n int) error {
			if n != 2 {
				return nil
			}
			tx = inTime(t, db, func(tx pgx.Tx, timeout time.Duration) bool {
				db.Exec(t, "UPDATE promise SET timeout_at = CLOCK_TIMESTAMP() + $2::INTERVAL WHERE id = $1", p.ID, timeout)
				_, err := repository.New(tx).Extend(t.Context(), tenant, promise.ByID(p.ID), promise.Deadline{Timeout: new(time.Hour)})
				return err == nil
			})
			db.Exec(t, "SELECT pg_sleep_until(timeout_at + INTERVAL '10 ms') FROM promise WHERE id = $1", p.ID)
			return &pgconn.PgError{Code: "40001"}
		},
		beforeWait: func(int) {
			if tx != nil {
				require.NoError(t, tx.Commit(t.Context()))
			}
		},
	})
	_, err := thief.Create(t.Context(), tenant, withKey(draft("thief"), "k", time.Hour))
	require.Equal(t, p.ID, requireCode(t, promise.CodeKeyConflict, err).ExistingPromiseID)
}
