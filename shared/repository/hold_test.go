package repository_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
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

// hold settles or holds under a key, and wants that outcome.
func hold(
	t testing.TB, r *repository.Repository, key string, s promise.SettleRequest, want promise.Outcome,
) promise.SettleResult {
	t.Helper()
	got, err := r.SettleEarly(t.Context(), tenant, key, s, time.Hour)
	require.NoError(t, err)
	require.Equal(t, want, got.Outcome)
	return got
}

func TestHold(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	ctx := t.Context()
	value, comment := []byte(" {\"a\" : 1.0e1}\n"), "by the \"webhook\""
	early := resolved(value)
	early.By, early.Comment = promise.By{Kind: promise.KindDirect, ID: "stripe"}, &comment

	held := hold(t, r, "k", early, promise.OutcomeHeld)
	require.Equal(t, uuid.Nil, held.PromiseID)
	require.Equal(t, promise.Resolved, held.State)
	require.NotNil(t, held.EarlyExpiresAt)
	require.False(t, held.EarlyExpired)
	require.Equal(t, 60, count(t, db, "SELECT (EXTRACT(EPOCH FROM expires_at - held_at) / 60)::INT FROM idempotency_key"))

	// Whatever comes after it changes nothing, not even for how long it is held.
	for _, c := range []struct {
		settlement promise.SettleRequest
		want       promise.Outcome
	}{
		{resolved(value), promise.OutcomeDuplicate},
		{resolved([]byte(`{"a":1.0e1}`)), promise.OutcomeConflict},
		{rejected("no"), promise.OutcomeConflict},
	} {
		got, err := r.SettleEarly(ctx, tenant, "k", c.settlement, 48*time.Hour)
		require.NoError(t, err)
		require.Equal(t, promise.SettleResult{State: promise.Pending, Outcome: c.want, EarlyExpiresAt: held.EarlyExpiresAt}, got)
	}

	// There is no promise yet.
	i := byKey(t, "k")
	for _, err := range []error{
		errOf(r.Get(ctx, tenant, i)), errOf(r.FindPromiseByIdempotencyKey(ctx, tenant, "k")), errOf(r.Settle(ctx, tenant, i, early)),
		errOf(r.Extend(ctx, tenant, i, promise.Deadline{At: new(time.Now())})),
	} {
		require.Equal(t, error(promise.ErrNotFound), err)
	}

	d := withKey(draft("payment"), "k", time.Hour)
	created, err := r.Create(ctx, tenant, d)
	require.NoError(t, err)
	require.True(t, created.New)
	require.False(t, created.EarlyExpired)
	p := created.Promise
	require.Equal(t, promise.Resolved, p.State)
	require.Equal(t, string(value), string(p.Value))
	require.Equal(t, &early.By, p.SettledBy)
	require.Equal(t, comment, *p.Comment)
	require.Equal(t, p.CreatedAt, *p.ResolvedAt)
	require.Equal(t, int32(1), p.CreatedBySequence)
	require.Equal(t, int32(2), *p.ResolvedBySequence)
	require.Equal(t, "1 PROMISE_CREATED\n2 PROMISE_RESOLVED", events(t, db, p.WorkflowExecutionID))
	for _, i := range []promise.Identifier{i, promise.ByID(p.ID)} {
		stored, err := r.Get(ctx, tenant, i)
		require.NoError(t, err)
		require.Equal(t, p, stored)
	}

	// From here on the key is the promise's, and the webhook's retry is a retry.
	again := hold(t, r, "k", early, promise.OutcomeDuplicate)
	require.Equal(t, promise.SettleResult{PromiseID: p.ID, State: promise.Resolved, Outcome: promise.OutcomeDuplicate}, again)
	hold(t, r, "k", rejected("no"), promise.OutcomeConflict)
	created, err = r.Create(ctx, tenant, d)
	require.NoError(t, err)
	require.Equal(t, promise.CreateResult{Promise: p}, created)
	require.Equal(t, 1, count(t, db, "SELECT COUNT(*) FROM idempotency_key WHERE held_at IS NULL AND held_by_kind IS NULL"))
}

// The numbers of a promise that is born settled are the next two, whatever was there before.
func TestHeldRejection(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	first := create(t, r, draft("first"))
	hold(t, r, "k", rejected(""), promise.OutcomeHeld)
	p := create(t, r, withKey(promise.Draft{WorkflowExecutionID: first.WorkflowExecutionID, Name: "second"}, "k", time.Hour))
	require.Equal(t, promise.Rejected, p.State)
	require.Empty(t, *p.Message)
	require.Nil(t, p.Value)
	require.Nil(t, p.Comment)
	require.Equal(t, "1 PROMISE_CREATED\n2 PROMISE_CREATED\n3 PROMISE_REJECTED", events(t, db, p.WorkflowExecutionID))
	requireDense(t, db)
}

func TestHoldOnAPromisesKeySettlesIt(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	p := create(t, r, withKey(draft("payment"), "k", time.Hour))
	got := hold(t, r, "k", resolved([]byte("1")), promise.OutcomeSettled)
	require.Equal(t, promise.SettleResult{PromiseID: p.ID, State: promise.Resolved, Outcome: promise.OutcomeSettled}, got)
	require.Equal(t, "1 PROMISE_CREATED\n2 PROMISE_RESOLVED", events(t, db, p.WorkflowExecutionID))
	require.Zero(t, count(t, db, "SELECT COUNT(*) FROM idempotency_key WHERE held_at IS NOT NULL"))
}

// An expired key has a promise and, beside it, an early settlement for the next one. A webhook that is repeated is compared with
// the promise first.
func TestAnExpiredKeyHasBoth(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	a, b, c := resolved([]byte("1")), resolved([]byte("2")), rejected("no")
	p := create(t, r, withKey(draft("old"), "k", time.Hour))
	hold(t, r, "k", a, promise.OutcomeSettled)
	requireTruth := func(s promise.SettleRequest, want promise.Outcome) {
		t.Helper()
		got := hold(t, r, "k", s, want)
		require.Equal(t, promise.SettleResult{PromiseID: p.ID, State: promise.Resolved, Outcome: want}, got)
	}
	requireTruth(b, promise.OutcomeConflict)
	db.Exec(t, "UPDATE idempotency_key SET expires_at = NOW() - INTERVAL '1 hour'")

	require.False(t, hold(t, r, "k", b, promise.OutcomeHeld).EarlyExpired)
	requireTruth(a, promise.OutcomeDuplicate)
	require.NotNil(t, hold(t, r, "k", b, promise.OutcomeDuplicate).EarlyExpiresAt)
	require.NotNil(t, hold(t, r, "k", c, promise.OutcomeConflict).EarlyExpiresAt)
	for s, want := range map[*promise.SettleRequest]promise.Outcome{&a: promise.OutcomeDuplicate, &b: promise.OutcomeConflict} {
		got, err := r.Settle(t.Context(), tenant, byKey(t, "k"), *s)
		require.NoError(t, err)
		require.Equal(t, promise.SettleResult{PromiseID: p.ID, State: promise.Resolved, Outcome: want}, got, "without a hold, the promise answers")
	}

	db.Exec(t, "UPDATE idempotency_key SET held_until = NOW()")
	requireTruth(a, promise.OutcomeDuplicate)
	require.True(t, hold(t, r, "k", c, promise.OutcomeHeld).EarlyExpired)
	requireTruth(a, promise.OutcomeDuplicate)
	q := create(t, r, withKey(draft("new"), "k", time.Hour))
	require.Equal(t, promise.Rejected, q.State)
	require.Equal(t, promise.SettleResult{PromiseID: q.ID, State: promise.Rejected, Outcome: promise.OutcomeConflict},
		hold(t, r, "k", a, promise.OutcomeConflict), "from here on the key names the new promise")
	old, err := r.Get(t.Context(), tenant, promise.ByID(p.ID))
	require.NoError(t, err)
	require.Equal(t, "1", string(old.Value))
}

// A promise that its deadline settled has no settlement that a webhook could repeat.
func TestAnExpiredKeyOfATimedOutPromise(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	for name, recorded := range map[string]bool{"recorded": true, "not recorded": false} {
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
		hold(t, r, name, resolved([]byte("1")), promise.OutcomeHeld)
		require.Equal(t, promise.Resolved, create(t, r, withKey(draft("next"), name, time.Hour)).State)
	}
}

// Each half of a key expires by itself, and is looked at when it can.
func TestExpireKeysWithBoth(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		settled, held string // when the promise was settled, and when the early settlement expires
		want          promise.ExpireKeysResult
		next          time.Duration // until the next look
	}{
		"both go":                      {"-8 days", "-1 hour", promise.ExpireKeysResult{Examined: 1, Released: 1, ExpiredEarly: []promise.ExpiredEarly{{Tenant: tenant, Key: "k"}}}, 0},
		"the promise goes":             {"-8 days", "1 hour", promise.ExpireKeysResult{Examined: 1, Released: 1}, time.Hour},
		"the early settlement goes":    {"-6 days", "-1 hour", promise.ExpireKeysResult{Examined: 1, ExpiredEarly: []promise.ExpiredEarly{{Tenant: tenant, Key: "k"}}}, 24 * time.Hour},
		"both stay, the promise long":  {"-6 days", "1 hour", promise.ExpireKeysResult{Examined: 1}, time.Hour},
		"both stay, the promise short": {"-6 days", "3 days", promise.ExpireKeysResult{Examined: 1}, 24 * time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, db := setUp(t)
			p := create(t, r, withKey(draft("old"), "k", time.Hour))
			hold(t, r, "k", resolved([]byte("1")), promise.OutcomeSettled)
			db.Exec(t, "UPDATE idempotency_key SET expires_at = NOW() - INTERVAL '1 hour'")
			hold(t, r, "k", resolved([]byte("2")), promise.OutcomeHeld)
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
				require.Equal(t, error(promise.ErrNotFound), err)
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
// CHECK on the old version first: neither statement may fail on it, or lose the settlement.
func TestASettlementIsHeldBeforeTheSweepLocksItsKey(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		settled string // how long ago
		named   bool   // afterwards
		sweep   func(t *testing.T, db *dbtest.DB) error
	}{
		"retention":           {"9 days", false, deletesSettled},
		"the promise goes":    {"9 days", false, expiresLockedKeys},
		"the promise is kept": {"1 day", true, expiresLockedKeys},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, db := setUp(t)
			create(t, r, withKey(draft("old"), "k", time.Hour))
			hold(t, r, "k", resolved([]byte("1")), promise.OutcomeSettled)
			db.Rewrite(t, "UPDATE promise SET created_at = NOW() - $1::INTERVAL, resolved_at = NOW() - $1::INTERVAL", c.settled)
			db.Exec(t, "UPDATE idempotency_key SET expires_at = NOW() - INTERVAL '1 hour', check_at = NOW() - INTERVAL '1 hour'")
			tx, err := db.Pool.Begin(t.Context())
			require.NoError(t, err)
			defer tx.Rollback(context.WithoutCancel(t.Context())) //nolint:errcheck // it is over already, where all went well
			hold(t, repository.New(tx), "k", resolved([]byte("2")), promise.OutcomeHeld)
			swept := make(chan error, 1)
			go func() { swept <- c.sweep(t, db) }()
			require.Eventually(t, func() bool {
				return count(t, db, `SELECT COUNT(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'
					AND pid = ANY(SELECT pid FROM pg_locks WHERE relation = 'idempotency_key'::REGCLASS)`) == 1
			}, time.Minute, 5*time.Millisecond)
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
	text, err := os.ReadFile("queries/expire_keys.sql")
	if err != nil {
		return err
	}
	_, err = db.Pool.Exec(context.WithoutCancel(t.Context()), strings.Replace(string(text), "FOR UPDATE OF k SKIP LOCKED", "FOR UPDATE OF k", 1), 10)
	return err
}

// Retention deletes a promise, and leaves the early settlement under its key to the next one.
func TestRetentionKeepsEarlySettlements(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	create(t, r, withKey(draft("old"), "k", time.Hour))
	hold(t, r, "k", resolved([]byte("1")), promise.OutcomeSettled)
	db.Exec(t, "UPDATE idempotency_key SET expires_at = NOW() - INTERVAL '1 hour'")
	until := hold(t, r, "k", resolved([]byte("2")), promise.OutcomeHeld).EarlyExpiresAt
	db.Rewrite(t, "UPDATE promise SET created_at = created_at - INTERVAL '2 days', resolved_at = resolved_at - INTERVAL '2 days'")
	deleted, err := r.DeleteSettled(t.Context(), 24*time.Hour, 10)
	require.NoError(t, err)
	require.Equal(t, 1, deleted.Promises)
	require.Equal(t, 1, deleted.Keys)
	require.Equal(t, until, hold(t, r, "k", resolved([]byte("2")), promise.OutcomeDuplicate).EarlyExpiresAt)
	require.Equal(t, "2", string(create(t, r, withKey(draft("new"), "k", time.Hour)).Value))
}

func TestAnExpiredHoldIsLost(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	expire := func() {
		db.Exec(t, "UPDATE idempotency_key SET held_until = NOW() - INTERVAL '1 second' WHERE held_at IS NOT NULL")
	}
	hold(t, r, "k", resolved([]byte("1")), promise.OutcomeHeld)
	expire()
	created, err := r.Create(t.Context(), tenant, withKey(draft("a"), "k", time.Hour))
	require.NoError(t, err)
	require.True(t, created.EarlyExpired)
	require.Equal(t, promise.Pending, created.Promise.State)
	require.Equal(t, "1 PROMISE_CREATED", events(t, db, created.Promise.WorkflowExecutionID))
	again, err := r.Create(t.Context(), tenant, withKey(
		promise.Draft{WorkflowExecutionID: created.Promise.WorkflowExecutionID, Name: "a"}, "k", time.Hour))
	require.NoError(t, err)
	require.False(t, again.EarlyExpired, "it is told once")

	hold(t, r, "k2", resolved([]byte("1")), promise.OutcomeHeld)
	expire()
	require.True(t, hold(t, r, "k2", resolved([]byte("2")), promise.OutcomeHeld).EarlyExpired)
	require.Equal(t, "2", string(create(t, r, withKey(draft("b"), "k2", time.Hour)).Value))
}

// A settlement that came after the deadline is late, whenever its promise is created.
func TestAHoldAfterTheDeadlineIsLost(t *testing.T) {
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
		hold(t, r, c.name, resolved([]byte("1")), promise.OutcomeHeld)
		db.Exec(t, "UPDATE idempotency_key SET held_at = DATE_TRUNC('day', NOW()) - $2::INTERVAL WHERE key = $1", c.name, c.age)
		var at time.Time
		require.NoError(t, db.Pool.QueryRow(t.Context(), "SELECT DATE_TRUNC('day', NOW()) - $1::INTERVAL", c.deadline).Scan(&at))
		d := withKey(draft("payment"), c.name, time.Hour)
		d.TimeoutAt = &at
		created, err := r.Create(t.Context(), tenant, d)
		require.NoError(t, err)
		require.Equal(t, c.want, created.Promise.State, c.name)
		require.Equal(t, c.want == promise.TimedOut, created.EarlyExpired, c.name)
	}
}

func TestHoldsKeepTenantsApart(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	db.Tenant(t, "other")
	ctx := t.Context()
	_, err := r.SettleEarly(ctx, "nobody", "k", resolved([]byte("1")), time.Hour)
	require.Equal(t, error(promise.ErrNotFound), err)
	hold(t, r, "k", resolved([]byte("1")), promise.OutcomeHeld)
	got, err := r.SettleEarly(ctx, "other", "k", resolved([]byte("2")), time.Hour)
	require.NoError(t, err)
	require.Equal(t, promise.OutcomeHeld, got.Outcome)
	theirs, err := r.Create(ctx, "other", withKey(draft("a"), "k", time.Hour))
	require.NoError(t, err)
	require.Equal(t, "2", string(theirs.Promise.Value))
	require.Equal(t, "1", string(create(t, r, withKey(draft("a"), "k", time.Hour)).Value))
}

// Only the promise that is created with the key takes what it holds.
func TestAHoldWaitsForItsPromise(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	ctx := t.Context()
	p := create(t, r, withKey(draft("a"), "own", time.Hour))
	hold(t, r, "k", resolved([]byte("1")), promise.OutcomeHeld)

	again := promise.Draft{WorkflowExecutionID: p.WorkflowExecutionID, Name: p.Name}
	_, err := r.Create(ctx, tenant, withKey(again, "k", time.Hour))
	require.Equal(t, p.ID, requireCode(t, promise.CodeCreateConflict, err).ExistingPromiseID)
	err = r.AddIdempotencyKey(ctx, tenant, "k", p.ID, time.Hour)
	require.Equal(t, uuid.Nil, requireCode(t, promise.CodeKeyConflict, err).ExistingPromiseID)

	// Its own key, free and holding by now: creating it once more is no conflict, and takes nothing.
	_, err = r.Settle(ctx, tenant, promise.ByID(p.ID), rejected("no"))
	require.NoError(t, err)
	db.Exec(t, "UPDATE idempotency_key SET expires_at = NOW() WHERE key = 'own'")
	hold(t, r, "own", resolved([]byte("2")), promise.OutcomeHeld)
	created, err := r.Create(ctx, tenant, withKey(again, "own", time.Hour))
	require.NoError(t, err)
	require.False(t, created.New)
	require.False(t, created.EarlyExpired)
	require.Equal(t, promise.Rejected, created.Promise.State)
	require.Equal(t, 2, count(t, db, "SELECT COUNT(*) FROM idempotency_key WHERE held_at IS NOT NULL"))
	require.Equal(t, "2", string(create(t, r, withKey(draft("b"), "own", time.Hour)).Value))
	require.Equal(t, "1", string(create(t, r, withKey(draft("c"), "k", time.Hour)).Value))
}

// The webhook and the workflow that creates its promise come at the same time, in either order. Whichever is first, the
// webhook's settlement is applied, once. Every third webhook comes twice.
func TestAWebhookAndItsPromiseAtOnce(t *testing.T) {
	t.Parallel()
	const pairs = 1000
	_, db := setUp(t)
	meetAll(t, db, pairs)
	requireOneSettlementEach(t, db, pairs)
}

// The same with keys that have expired: each still names an old promise, and the sweep looks at them all the time.
func TestAWebhookAndItsPromiseAtOnceOnExpiredKeys(t *testing.T) {
	t.Parallel()
	const pairs = 500
	r, db := setUp(t)
	for n := range pairs {
		create(t, r, withKey(draft("old"), fmt.Sprint("k", n), time.Hour))
		hold(t, r, fmt.Sprint("k", n), resolved([]byte("0")), promise.OutcomeSettled)
	}
	// Of half of them the sweep lets the promise go.
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

// meetAll lets so many webhooks meet their promises, several at a time.
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

// meet lets a webhook and its promise's creation meet, and says whether the settlement had been held.
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
	bornSettled := created.Promise.State == promise.Resolved
	p, err := r.Get(ctx, tenant, promise.ByID(created.Promise.ID))
	switch {
	case err != nil:
		return false, err
	case applied[promise.OutcomeHeld]+applied[promise.OutcomeSettled] != 1 || applied[promise.OutcomeDuplicate] != len(webhooks)-1:
		return false, fmt.Errorf("the webhooks were told %v", applied)
	case held != bornSettled || !created.New || created.EarlyExpired:
		return false, fmt.Errorf("held is %v of %+v", held, created)
	case p.State != promise.Resolved || string(p.Value) != value || *p.ResolvedBySequence != 2:
		return false, fmt.Errorf("after %v: %+v", applied, p)
	}
	return held, nil
}

// requireOneSettlementEach wants n promises, all settled, each with one event that tells of it.
func requireOneSettlementEach(t *testing.T, db *dbtest.DB, n int) {
	t.Helper()
	require.Equal(t, n, count(t, db, `SELECT COUNT(*) FROM promise p WHERE resolved AND 1 = (
		SELECT COUNT(*) FROM workflow_event e WHERE e.promise_id = p.id AND e.event_type NOT IN ('PROMISE_CREATED', 'PROMISE_EXTENDED'))`))
}
