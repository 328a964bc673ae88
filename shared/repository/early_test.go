package repository_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/dbtest"
	"github.com/flovyn/promises/shared/promise"
	"github.com/flovyn/promises/shared/repository"
)

func TestSettleEarly(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	value, comment := []byte(" {\"a\" : 1.0e1}\n"), "by the \"webhook\""
	early := resolved(value)
	early.By, early.Comment = promise.By{Kind: promise.KindDirect, ID: "stripe"}, &comment
	held := settleEarly(t, r, "k", early, promise.OutcomeHeld)
	i := byKey(t, "k")
	d := withKey(draft("payment"), "k", time.Hour)
	var p promise.Promise

	t.Run("it is stored under the key for an hour", func(t *testing.T) {
		require.Equal(t, uuid.Nil, held.PromiseID)
		require.Equal(t, promise.Resolved, held.State)
		require.NotNil(t, held.EarlyExpiresAt)
		require.False(t, held.EarlyExpired)
		require.Equal(t, 60, count(t, db, "SELECT (EXTRACT(EPOCH FROM expires_at - held_at) / 60)::INT FROM idempotency_key"))
	})
	for _, c := range []struct {
		name       string
		settlement promise.SettleRequest
		want       promise.Outcome
	}{
		{"the same bytes are a duplicate", resolved(value), promise.OutcomeDuplicate},
		{"other bytes of the same JSON are a conflict", resolved([]byte(`{"a":1.0e1}`)), promise.OutcomeConflict},
		{"a rejection is a conflict", rejected("no"), promise.OutcomeConflict},
	} {
		t.Run(c.name+", and the expiry stays", func(t *testing.T) {
			got, err := r.SettleEarly(t.Context(), tenant, "k", c.settlement, 48*time.Hour)
			require.NoError(t, err)
			require.Equal(t, promise.SettleResult{State: promise.Pending, Outcome: c.want, EarlyExpiresAt: held.EarlyExpiresAt}, got)
		})
	}
	t.Run("other calls find no promise by the key", func(t *testing.T) {
		ctx := t.Context()
		requireNotFound(t, errOf(r.Get(ctx, tenant, i)))
		requireNotFound(t, errOf(r.FindPromiseByIdempotencyKey(ctx, tenant, "k")))
		requireNotFound(t, errOf(r.Settle(ctx, tenant, i, early)))
		requireNotFound(t, errOf(r.Extend(ctx, tenant, i, promise.Deadline{At: new(time.Now())})))
	})
	t.Run("the promise with the key is created settled", func(t *testing.T) {
		created, err := r.Create(t.Context(), tenant, d)
		require.NoError(t, err)
		require.True(t, created.New)
		require.False(t, created.EarlyExpired)
		p = created.Promise
		require.Equal(t, promise.Resolved, p.State)
		require.Equal(t, string(value), string(p.Value))
		require.Equal(t, &early.By, p.SettledBy)
		require.Equal(t, comment, *p.Comment)
		require.Equal(t, p.CreatedAt, *p.ResolvedAt)
		require.Equal(t, int32(1), p.CreatedBySequence)
		require.Equal(t, int32(2), *p.ResolvedBySequence)
		require.Equal(t, "1 PROMISE_CREATED\n2 PROMISE_RESOLVED", events(t, db, p.WorkflowExecutionID))
		for _, i := range []promise.Identifier{i, promise.ByID(p.ID)} {
			stored, err := r.Get(t.Context(), tenant, i)
			require.NoError(t, err)
			require.Equal(t, p, stored)
		}
	})
	t.Run("then the promise answers calls by the key", func(t *testing.T) {
		again := settleEarly(t, r, "k", early, promise.OutcomeDuplicate)
		require.Equal(t, promise.SettleResult{PromiseID: p.ID, State: promise.Resolved, Outcome: promise.OutcomeDuplicate}, again)
		settleEarly(t, r, "k", rejected("no"), promise.OutcomeConflict)
		created, err := r.Create(t.Context(), tenant, d)
		require.NoError(t, err)
		require.Equal(t, promise.CreateResult{Promise: p}, created)
		require.Equal(t, 1, count(t, db, "SELECT COUNT(*) FROM idempotency_key WHERE held_at IS NULL AND held_by_kind IS NULL"))
	})
}

// A promise that is created settled takes the next two sequence numbers of its workflow.
func TestSettleEarlyWithARejection(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	first := create(t, r, draft("first"))
	settleEarly(t, r, "k", rejected(""), promise.OutcomeHeld)
	p := create(t, r, withKey(promise.Draft{WorkflowExecutionID: first.WorkflowExecutionID, Name: "second"}, "k", time.Hour))
	require.Equal(t, promise.Rejected, p.State)
	require.Empty(t, *p.Message)
	require.Nil(t, p.Value)
	require.Nil(t, p.Comment)
	require.Equal(t, "1 PROMISE_CREATED\n2 PROMISE_CREATED\n3 PROMISE_REJECTED", events(t, db, p.WorkflowExecutionID))
	requireDense(t, db)
}

func TestSettleEarlySettlesAnExistingPromise(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	p := create(t, r, withKey(draft("payment"), "k", time.Hour))
	got := settleEarly(t, r, "k", resolved([]byte("1")), promise.OutcomeSettled)
	require.Equal(t, promise.SettleResult{PromiseID: p.ID, State: promise.Resolved, Outcome: promise.OutcomeSettled}, got)
	require.Equal(t, "1 PROMISE_CREATED\n2 PROMISE_RESOLVED", events(t, db, p.WorkflowExecutionID))
	require.Zero(t, count(t, db, "SELECT COUNT(*) FROM idempotency_key WHERE held_at IS NOT NULL"))
}

// An expired key can have a promise and an early settlement for the next promise. A repeated settlement is compared with the promise
// first.
func TestAnExpiredKeyWithAPromiseAndAnEarlySettlement(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	a, b, c := resolved([]byte("1")), resolved([]byte("2")), rejected("no")
	p := create(t, r, withKey(draft("old"), "k", time.Hour))
	settleEarly(t, r, "k", a, promise.OutcomeSettled)
	requireOfPromise := func(t *testing.T, s promise.SettleRequest, want promise.Outcome) {
		t.Helper()
		got := settleEarly(t, r, "k", s, want)
		require.Equal(t, promise.SettleResult{PromiseID: p.ID, State: promise.Resolved, Outcome: want}, got)
	}
	t.Run("before the key expires, another settlement conflicts with the promise", func(t *testing.T) {
		requireOfPromise(t, b, promise.OutcomeConflict)
	})
	db.Exec(t, "UPDATE idempotency_key SET expires_at = NOW() - INTERVAL '1 hour'")
	t.Run("then another settlement is stored", func(t *testing.T) {
		require.False(t, settleEarly(t, r, "k", b, promise.OutcomeHeld).EarlyExpired)
	})
	t.Run("the promise's settlement is a duplicate of it", func(t *testing.T) {
		requireOfPromise(t, a, promise.OutcomeDuplicate)
	})
	t.Run("others are compared with the early settlement", func(t *testing.T) {
		require.NotNil(t, settleEarly(t, r, "k", b, promise.OutcomeDuplicate).EarlyExpiresAt)
		require.NotNil(t, settleEarly(t, r, "k", c, promise.OutcomeConflict).EarlyExpiresAt)
	})
	t.Run("settle compares with the promise alone", func(t *testing.T) {
		for s, want := range map[*promise.SettleRequest]promise.Outcome{&a: promise.OutcomeDuplicate, &b: promise.OutcomeConflict} {
			got, err := r.Settle(t.Context(), tenant, byKey(t, "k"), *s)
			require.NoError(t, err)
			require.Equal(t, promise.SettleResult{PromiseID: p.ID, State: promise.Resolved, Outcome: want}, got)
		}
	})
	t.Run("an expired early settlement is replaced", func(t *testing.T) {
		db.Exec(t, "UPDATE idempotency_key SET held_until = NOW()")
		requireOfPromise(t, a, promise.OutcomeDuplicate)
		require.True(t, settleEarly(t, r, "k", c, promise.OutcomeHeld).EarlyExpired)
		requireOfPromise(t, a, promise.OutcomeDuplicate)
	})
	t.Run("a new promise with the key takes the early settlement", func(t *testing.T) {
		q := create(t, r, withKey(draft("new"), "k", time.Hour))
		require.Equal(t, promise.Rejected, q.State)
		require.Equal(t, promise.SettleResult{PromiseID: q.ID, State: promise.Rejected, Outcome: promise.OutcomeConflict},
			settleEarly(t, r, "k", a, promise.OutcomeConflict), "the key names the new promise")
	})
	t.Run("the old promise stays", func(t *testing.T) {
		old, err := r.Get(t.Context(), tenant, promise.ByID(p.ID))
		require.NoError(t, err)
		require.Equal(t, "1", string(old.Value))
	})
}

// A promise that its deadline settled has no settlement that a webhook could repeat, so an equal one is stored for the next promise.
func TestAnExpiredKeyOfATimedOutPromise(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	for name, recorded := range map[string]bool{"recorded": true, "not recorded": false} {
		t.Run("its deadline is "+name, func(t *testing.T) {
			d := withKey(draft("payment"), name, time.Hour)
			d.TimeoutAt, d.OnTimeout = new(time.Now().Add(-time.Minute)), &promise.Result{State: promise.Resolved, Value: []byte("1")}
			create(t, r, d)
			db.Exec(t, "UPDATE idempotency_key SET expires_at = NOW()")
			if recorded {
				_, err := r.Expire(t.Context(), 10)
				require.NoError(t, err)
			}
			got, err := r.Settle(t.Context(), tenant, byKey(t, name), resolved([]byte("1")))
			require.NoError(t, err)
			require.Equal(t, promise.OutcomeTimedOut, got.Outcome)
			settleEarly(t, r, name, resolved([]byte("1")), promise.OutcomeHeld)
			require.Equal(t, promise.Resolved, create(t, r, withKey(draft("next"), name, time.Hour)).State)
		})
	}
}

// A key's promise and its early settlement expire separately. The sweep examines the key when the first of them can expire.
func TestExpireKeysWithAPromiseAndAnEarlySettlement(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		settled, held string // when the promise was settled, and when the early settlement expires, both from now
		want          promise.ExpireKeysResult
		next          time.Duration // until the key's next check
	}{
		"both expire":                                 {"-8 days", "-1 hour", promise.ExpireKeysResult{Examined: 1, Released: 1, ExpiredEarly: []promise.ExpiredEarly{{Tenant: tenant, Key: "k"}}}, 0},
		"the promise expires":                         {"-8 days", "1 hour", promise.ExpireKeysResult{Examined: 1, Released: 1}, time.Hour},
		"the early settlement expires":                {"-6 days", "-1 hour", promise.ExpireKeysResult{Examined: 1, ExpiredEarly: []promise.ExpiredEarly{{Tenant: tenant, Key: "k"}}}, 24 * time.Hour},
		"both stay, the early settlement is the next": {"-6 days", "1 hour", promise.ExpireKeysResult{Examined: 1}, time.Hour},
		"both stay, the promise is the next":          {"-6 days", "3 days", promise.ExpireKeysResult{Examined: 1}, 24 * time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, db := setUp(t)
			p := create(t, r, withKey(draft("old"), "k", time.Hour))
			settleEarly(t, r, "k", resolved([]byte("1")), promise.OutcomeSettled)
			db.Exec(t, "UPDATE idempotency_key SET expires_at = NOW() - INTERVAL '1 hour'")
			settleEarly(t, r, "k", resolved([]byte("2")), promise.OutcomeHeld)
			db.Rewrite(t, "UPDATE promise SET resolved_at = NOW() + $1::INTERVAL", c.settled)
			db.Exec(t, "UPDATE idempotency_key SET held_until = NOW() + $1::INTERVAL, check_at = NOW()", c.held)
			expired, err := r.ExpireIdempotencyKeys(t.Context(), 10)
			require.NoError(t, err)
			require.Equal(t, c.want, expired)
			expired, err = r.ExpireIdempotencyKeys(t.Context(), 10)
			require.NoError(t, err)
			require.Zero(t, expired)
			if c.next == 0 {
				require.Zero(t, count(t, db, "SELECT COUNT(*) FROM idempotency_key"))
				return
			}
			require.Equal(t, int(c.next/time.Hour), count(t, db, "SELECT ROUND(EXTRACT(EPOCH FROM check_at - NOW()) / 3600)::INT FROM idempotency_key"))
			got, err := r.Get(t.Context(), tenant, byKey(t, "k"))
			if c.want.Released == 1 {
				requireNotFound(t, err)
			} else {
				require.NoError(t, err)
				require.Equal(t, p.ID, got.ID)
			}
			q := create(t, r, withKey(draft("new"), "k", time.Hour))
			require.Equal(t, len(c.want.ExpiredEarly) == 0, q.State == promise.Resolved)
		})
	}
}

// An early settlement is stored after the sweep's snapshot, and before the sweep locks the key's row. Postgres evaluates the row's
// CHECK on the old version first. Neither statement may fail on it or lose the settlement.
func TestAnEarlySettlementIsStoredBeforeTheSweepLocksItsKey(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		settled string // how long ago
		named   bool   // the key still names the promise afterwards
		sweep   func(t *testing.T, db *dbtest.DB) error
	}{
		"retention deletes the promise": {"9 days", false, deletesSettled},
		"the sweep releases the key":    {"9 days", false, expiresLockedKeys},
		"the sweep keeps the key":       {"1 day", true, expiresLockedKeys},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, db := setUp(t)
			create(t, r, withKey(draft("old"), "k", time.Hour))
			settleEarly(t, r, "k", resolved([]byte("1")), promise.OutcomeSettled)
			db.Rewrite(t, "UPDATE promise SET created_at = NOW() - $1::INTERVAL, resolved_at = NOW() - $1::INTERVAL", c.settled)
			db.Exec(t, "UPDATE idempotency_key SET expires_at = NOW() - INTERVAL '1 hour', check_at = NOW() - INTERVAL '1 hour'")
			tx, err := db.Pool.Begin(t.Context())
			require.NoError(t, err)
			defer tx.Rollback(context.WithoutCancel(t.Context())) //nolint:errcheck // the test has committed it by then
			settleEarly(t, repository.New(tx), "k", resolved([]byte("2")), promise.OutcomeHeld)
			swept := make(chan error, 1)
			go func() { swept <- c.sweep(t, db) }()
			waitForLocks(t, db, 1, "idempotency_key")
			require.NoError(t, tx.Commit(t.Context()))
			require.NoError(t, <-swept)
			_, err = r.Get(t.Context(), tenant, byKey(t, "k"))
			require.Equal(t, c.named, err == nil, "%v", err)
			require.Equal(t, "2", string(create(t, r, withKey(draft("new"), "k", time.Hour)).Value))
		})
	}
}

func deletesSettled(t *testing.T, db *dbtest.DB) error {
	_, err := repository.New(db.Pool).DeleteSettled(context.WithoutCancel(t.Context()), 24*time.Hour, 10)
	return err
}

// expiresLockedKeys runs the sweep's statement, but waits for locked rows instead of skipping them.
func expiresLockedKeys(t *testing.T, db *dbtest.DB) error {
	sql := strings.Replace(querySQL(t, "expire_idempotency_keys"), "FOR UPDATE OF k SKIP LOCKED", "FOR UPDATE OF k", 1)
	_, err := db.Pool.Exec(context.WithoutCancel(t.Context()), sql, 10)
	return err
}

// Retention deletes a promise, and keeps the early settlement under its key for the next promise.
func TestRetentionKeepsEarlySettlements(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	create(t, r, withKey(draft("old"), "k", time.Hour))
	settleEarly(t, r, "k", resolved([]byte("1")), promise.OutcomeSettled)
	db.Exec(t, "UPDATE idempotency_key SET expires_at = NOW() - INTERVAL '1 hour'")
	until := settleEarly(t, r, "k", resolved([]byte("2")), promise.OutcomeHeld).EarlyExpiresAt
	db.Rewrite(t, "UPDATE promise SET created_at = created_at - INTERVAL '2 days', resolved_at = resolved_at - INTERVAL '2 days'")
	deleted, err := r.DeleteSettled(t.Context(), 24*time.Hour, 10)
	require.NoError(t, err)
	require.Equal(t, 1, deleted.Promises)
	require.Equal(t, 1, deleted.Keys)
	require.Equal(t, until, settleEarly(t, r, "k", resolved([]byte("2")), promise.OutcomeDuplicate).EarlyExpiresAt)
	require.Equal(t, "2", string(create(t, r, withKey(draft("new"), "k", time.Hour)).Value))
}

func TestAnExpiredEarlySettlementSettlesNothing(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	expire := func(t *testing.T) {
		db.Exec(t, "UPDATE idempotency_key SET held_until = NOW() - INTERVAL '1 second' WHERE held_at IS NOT NULL")
	}
	t.Run("create reports it once", func(t *testing.T) {
		settleEarly(t, r, "k", resolved([]byte("1")), promise.OutcomeHeld)
		expire(t)
		created, err := r.Create(t.Context(), tenant, withKey(draft("a"), "k", time.Hour))
		require.NoError(t, err)
		require.True(t, created.EarlyExpired)
		require.Equal(t, promise.Pending, created.Promise.State)
		require.Equal(t, "1 PROMISE_CREATED", events(t, db, created.Promise.WorkflowExecutionID))
		again, err := r.Create(t.Context(), tenant, withKey(
			promise.Draft{WorkflowExecutionID: created.Promise.WorkflowExecutionID, Name: "a"}, "k", time.Hour))
		require.NoError(t, err)
		require.False(t, again.EarlyExpired)
	})
	t.Run("the next early settlement replaces it", func(t *testing.T) {
		settleEarly(t, r, "k2", resolved([]byte("1")), promise.OutcomeHeld)
		expire(t)
		require.True(t, settleEarly(t, r, "k2", resolved([]byte("2")), promise.OutcomeHeld).EarlyExpired)
		require.Equal(t, "2", string(create(t, r, withKey(draft("b"), "k2", time.Hour)).Value))
	})
}

// A settlement that came after the deadline is late, even if its promise is created later.
func TestAnEarlySettlementAfterTheDeadlineSettlesNothing(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	for _, c := range []struct {
		name, age, deadline string
		want                promise.State
	}{
		{"before", "2 hours", "1 hour", promise.Resolved},
		{"after", "1 hour", "2 hours", promise.TimedOut},
		{"at", "1 hour", "1 hour", promise.TimedOut},
	} {
		t.Run(c.name+" the deadline", func(t *testing.T) {
			settleEarly(t, r, c.name, resolved([]byte("1")), promise.OutcomeHeld)
			db.Exec(t, "UPDATE idempotency_key SET held_at = DATE_TRUNC('day', NOW()) - $2::INTERVAL WHERE key = $1", c.name, c.age)
			var at time.Time
			require.NoError(t, db.Pool.QueryRow(t.Context(), "SELECT DATE_TRUNC('day', NOW()) - $1::INTERVAL", c.deadline).Scan(&at))
			d := withKey(draft("payment"), c.name, time.Hour)
			d.TimeoutAt = &at
			created, err := r.Create(t.Context(), tenant, d)
			require.NoError(t, err)
			require.Equal(t, c.want, created.Promise.State)
			require.Equal(t, c.want == promise.TimedOut, created.EarlyExpired)
		})
	}
}

func TestEarlySettlementsOfTwoTenants(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	db.Tenant(t, "other")
	ctx := t.Context()
	_, err := r.SettleEarly(ctx, "nobody", "k", resolved([]byte("1")), time.Hour)
	requireNotFound(t, err)
	settleEarly(t, r, "k", resolved([]byte("1")), promise.OutcomeHeld)
	got, err := r.SettleEarly(ctx, "other", "k", resolved([]byte("2")), time.Hour)
	require.NoError(t, err)
	require.Equal(t, promise.OutcomeHeld, got.Outcome)
	theirs, err := r.Create(ctx, "other", withKey(draft("a"), "k", time.Hour))
	require.NoError(t, err)
	require.Equal(t, "2", string(theirs.Promise.Value))
	require.Equal(t, "1", string(create(t, r, withKey(draft("a"), "k", time.Hour)).Value))
}

// Only a promise that is created with the key takes the key's early settlement.
func TestAnEarlySettlementWaitsForANewPromise(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	p := create(t, r, withKey(draft("a"), "own", time.Hour))
	settleEarly(t, r, "k", resolved([]byte("1")), promise.OutcomeHeld)
	again := promise.Draft{WorkflowExecutionID: p.WorkflowExecutionID, Name: p.Name}
	t.Run("an existing promise with another key is a conflict", func(t *testing.T) {
		_, err := r.Create(t.Context(), tenant, withKey(again, "k", time.Hour))
		require.Equal(t, p.ID, requireCode(t, promise.CodeCreateConflict, err).ExistingPromiseID)
	})
	t.Run("the key cannot be added to a promise", func(t *testing.T) {
		err := r.AddIdempotencyKey(t.Context(), tenant, "k", p.ID, time.Hour)
		require.Equal(t, uuid.Nil, requireCode(t, promise.CodeKeyConflict, err).ExistingPromiseID)
	})
	t.Run("a repeated create of the key's old promise takes nothing", func(t *testing.T) {
		_, err := r.Settle(t.Context(), tenant, promise.ByID(p.ID), rejected("no"))
		require.NoError(t, err)
		db.Exec(t, "UPDATE idempotency_key SET expires_at = NOW() WHERE key = 'own'")
		settleEarly(t, r, "own", resolved([]byte("2")), promise.OutcomeHeld)
		created, err := r.Create(t.Context(), tenant, withKey(again, "own", time.Hour))
		require.NoError(t, err)
		require.False(t, created.New)
		require.False(t, created.EarlyExpired)
		require.Equal(t, promise.Rejected, created.Promise.State)
		require.Equal(t, 2, count(t, db, "SELECT COUNT(*) FROM idempotency_key WHERE held_at IS NOT NULL"))
	})
	t.Run("new promises take them", func(t *testing.T) {
		require.Equal(t, "2", string(create(t, r, withKey(draft("b"), "own", time.Hour)).Value))
		require.Equal(t, "1", string(create(t, r, withKey(draft("c"), "k", time.Hour)).Value))
	})
}

// A webhook and the workflow that creates its promise call at the same time. In either order, the webhook's settlement is applied
// once. Every third webhook calls twice.
func TestAWebhookAndItsPromiseAtOnce(t *testing.T) {
	t.Parallel()
	const pairs = 1000
	_, db := setUp(t)
	meetAll(t, db, pairs)
	requireOneSettlementEach(t, db, pairs)
}

// Webhooks and the creations of their promises race on expired keys, which still name old promises, while the sweep examines the keys all
// the time.
func TestAWebhookAndItsPromiseAtOnceOnExpiredKeys(t *testing.T) {
	t.Parallel()
	const pairs = 500
	r, db := setUp(t)
	for n := range pairs {
		create(t, r, withKey(draft("old"), fmt.Sprint("k", n), time.Hour))
		settleEarly(t, r, fmt.Sprint("k", n), resolved([]byte("0")), promise.OutcomeSettled)
	}
	// The sweep releases about half of them.
	db.Rewrite(t, `UPDATE promise SET resolved_at = NOW() - INTERVAL '8 days' WHERE resolved_by_sequence = 2 AND random() < 0.5`)
	db.Exec(t, "UPDATE idempotency_key SET expires_at = NOW() - INTERVAL '1 hour', check_at = NOW()")
	met := make(chan struct{})
	var sweeper sync.WaitGroup
	sweeper.Go(func() {
		for {
			select {
			case <-met:
				return
			default:
			}
			expired, err := r.ExpireIdempotencyKeys(context.Background(), 50)
			if err != nil || len(expired.ExpiredEarly) > 0 {
				t.Errorf("swept %+v, %v", expired, err)
			}
			if _, err := db.Pool.Exec(context.Background(), "UPDATE idempotency_key SET check_at = NOW()"); err != nil {
				t.Error(err)
			}
		}
	})
	meetAll(t, db, pairs)
	close(met)
	sweeper.Wait()
	requireOneSettlementEach(t, db, 2*pairs)
}

// meetAll runs meet for many pairs, several at a time.
func meetAll(t *testing.T, db *dbtest.DB, pairs int) {
	t.Helper()
	const atATime = 8
	r := repository.New(poolWith(t, db.URL, func(c *pgxpool.Config) { c.MaxConns = 3 * atATime }))
	var wg sync.WaitGroup
	seen := [2]int{}
	var mu sync.Mutex
	next := make(chan int)
	for range atATime {
		wg.Go(func() {
			for n := range next {
				held, err := meet(r, n, n%3 == 0)
				if err != nil {
					t.Errorf("pair %d: %v", n, err)
					continue
				}
				mu.Lock()
				if held {
					seen[0]++
				} else {
					seen[1]++
				}
				mu.Unlock()
			}
		})
	}
	for n := range pairs {
		next <- n
	}
	close(next)
	wg.Wait()
	t.Logf("held %d, settled %d", seen[0], seen[1])
	require.NotZero(t, seen[0], "the webhook was never first")
	require.NotZero(t, seen[1], "the promise was never first")
	requireDense(t, db)
}

// meet runs a webhook and its promise's creation concurrently. It reports whether the webhook was first, so that its settlement was
// stored early.
func meet(r *repository.Repository, n int, twice bool) (held bool, err error) {
	ctx := context.Background()
	key, value := fmt.Sprint("k", n), fmt.Sprintf(`{"n": %d}`, n)
	var wg sync.WaitGroup
	var created promise.CreateResult
	var createErr error
	webhooks := make([]promise.SettleResult, 1, 2)
	if twice {
		webhooks = webhooks[:2]
	}
	errs := make([]error, len(webhooks))
	wg.Go(func() {
		time.Sleep(rand.N(3 * time.Millisecond))
		created, createErr = r.Create(ctx, tenant, withKey(draft(key), key, time.Hour))
	})
	for i := range webhooks {
		wg.Go(func() {
			time.Sleep(rand.N(3 * time.Millisecond))
			webhooks[i], errs[i] = r.SettleEarly(ctx, tenant, key, resolved([]byte(value)), time.Hour)
		})
	}
	wg.Wait()
	if createErr != nil {
		return false, createErr
	}
	applied := map[promise.Outcome]int{}
	for i, err := range errs {
		if err != nil {
			return false, err
		}
		applied[webhooks[i].Outcome]++
	}
	held = applied[promise.OutcomeHeld] == 1
	createdSettled := created.Promise.State == promise.Resolved
	p, err := r.Get(ctx, tenant, promise.ByID(created.Promise.ID))
	switch {
	case err != nil:
		return false, err
	case applied[promise.OutcomeHeld]+applied[promise.OutcomeSettled] != 1 || applied[promise.OutcomeDuplicate] != len(webhooks)-1:
		return false, fmt.Errorf("the webhooks' outcomes are %v", applied)
	case held != createdSettled || !created.New || created.EarlyExpired:
		return false, fmt.Errorf("held is %v of %+v", held, created)
	case p.State != promise.Resolved || string(p.Value) != value || *p.ResolvedBySequence != 2:
		return false, fmt.Errorf("after %v: %+v", applied, p)
	}
	return held, nil
}
