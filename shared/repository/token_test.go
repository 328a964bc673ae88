package repository_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/promise"
)

// Each revocation ends what was issued before it, and nothing that is issued after it.
func TestRevokeTokens(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	ctx := t.Context()
	d := withKey(draft("a"), "k", time.Hour)
	created, err := r.Create(ctx, tenant, d)
	require.NoError(t, err)
	require.Nil(t, created.TokensRevokedAt)
	p := created.Promise
	other := create(t, r, draft("b"))
	active := func(promiseID uuid.UUID, revokedAt *time.Time) bool {
		t.Helper()
		is, err := r.TokenActive(ctx, tenant, promiseID, uuid.Nil, revokedAt)
		require.NoError(t, err)
		return is
	}
	require.True(t, active(p.ID, nil))

	var before *time.Time
	for n, i := range []promise.Identifier{promise.ByID(p.ID), byKey(t, "k"), promise.ByID(p.ID)} {
		got, err := r.RevokeTokens(ctx, tenant, i)
		require.NoError(t, err)
		require.Equal(t, p.ID, got.PromiseID)
		require.WithinDuration(t, time.Now(), got.At, time.Hour)
		require.False(t, active(p.ID, before))
		require.True(t, active(p.ID, &got.At))
		again, err := r.Create(ctx, tenant, d)
		require.NoError(t, err)
		require.False(t, again.New)
		require.True(t, got.At.Equal(*again.TokensRevokedAt), "a repeated create signs a valid one")
		before = again.TokensRevokedAt
		if n == 1 { // a token of a promise that is settled is revoked, too
			_, err = r.Settle(ctx, tenant, promise.ByID(p.ID), resolved([]byte("1")))
			require.NoError(t, err)
			require.True(t, active(p.ID, before), "a settlement revokes nothing")
		}
	}
	require.True(t, active(other.ID, nil), "of another promise")
	stored, err := r.Get(ctx, tenant, promise.ByID(p.ID))
	require.NoError(t, err)
	require.Equal(t, []byte("1"), stored.Value)
	require.Equal(t, "1 PROMISE_CREATED", events(t, db, other.WorkflowExecutionID))

	// Not even a clock that was set back makes two revocations one.
	db.Exec(t, "UPDATE promise SET tokens_revoked_at = NOW() + INTERVAL '1 day' WHERE id = $1", p.ID)
	first, err := r.RevokeTokens(ctx, tenant, promise.ByID(p.ID))
	require.NoError(t, err)
	second, err := r.RevokeTokens(ctx, tenant, promise.ByID(p.ID))
	require.NoError(t, err)
	require.Equal(t, time.Microsecond, second.At.Sub(first.At))

	db.Tenant(t, "other")
	for slug, i := range map[string]promise.Identifier{"other": promise.ByID(p.ID), "nobody": promise.ByID(p.ID), tenant: byKey(t, "unknown")} {
		_, err := r.RevokeTokens(ctx, slug, i)
		require.ErrorIs(t, err, promise.ErrNotFound)
	}
	for slug, id := range map[string]uuid.UUID{"other": p.ID, "nobody": p.ID, tenant: uuid.New()} {
		is, err := r.TokenActive(ctx, slug, id, uuid.Nil, &second.At)
		require.NoError(t, err)
		require.False(t, is, slug)
	}
	_, err = r.SuspendTenant(ctx, tenant, true)
	require.NoError(t, err)
	require.False(t, active(other.ID, nil))
}

// Revocations at the same moment, among settlements, are one after the other, and each is a time of its own.
func TestRevokeTokensAtOnce(t *testing.T) {
	t.Parallel()
	r, _ := setUp(t)
	p := create(t, r, draft("a"))
	var wg sync.WaitGroup
	times := make([]time.Time, 8)
	errs := make([]error, 2*len(times))
	for i := range times {
		wg.Go(func() {
			got, err := r.RevokeTokens(context.Background(), tenant, promise.ByID(p.ID))
			times[i], errs[2*i] = got.At.UTC(), err
		})
		wg.Go(func() {
			_, errs[2*i+1] = r.Settle(context.Background(), tenant, promise.ByID(p.ID), resolved([]byte("1")))
		})
	}
	wg.Wait()
	seen := map[time.Time]bool{}
	for _, err := range errs {
		require.NoError(t, err)
	}
	var last time.Time
	for _, at := range times {
		require.False(t, seen[at], at)
		seen[at] = true
		if at.After(last) {
			last = at
		}
	}
	for at := range seen {
		is, err := r.TokenActive(t.Context(), tenant, p.ID, uuid.Nil, &at)
		require.NoError(t, err)
		require.Equal(t, at.Equal(last), is)
	}
	stored, err := r.Get(t.Context(), tenant, promise.ByID(p.ID))
	require.NoError(t, err)
	require.Equal(t, promise.Resolved, stored.State)
}

// A key that is revoked keeps the tokens that it asked for, or ends them with it, and no others.
func TestRevokeKeyWithItsTokens(t *testing.T) {
	t.Parallel()
	r, db := setUp(t)
	db.Tenant(t, "other")
	ctx := t.Context()
	p := create(t, r, draft("a"))
	key := func(tenant string, n byte) uuid.UUID {
		t.Helper()
		k, err := r.CreateAPIKey(ctx, promise.APIKey{Tenant: tenant, Name: "n", Hash: append(make([]byte, 31), n), Scopes: []promise.Scope{promise.ScopeRead}})
		require.NoError(t, err)
		return k.ID
	}
	a, b, foreign := key(tenant, 1), key(tenant, 2), key("other", 3)
	active := func(of uuid.UUID) bool {
		t.Helper()
		is, err := r.TokenActive(ctx, tenant, p.ID, of, nil)
		require.NoError(t, err)
		return is
	}
	require.True(t, active(a))
	require.False(t, active(foreign))
	require.False(t, active(uuid.New()))
	at, tokensAt, err := r.RevokeAPIKey(ctx, tenant, a, false)
	require.NoError(t, err)
	require.Nil(t, tokensAt)
	require.True(t, active(a))
	again, tokensAt, err := r.RevokeAPIKey(ctx, tenant, a, true)
	require.NoError(t, err)
	require.True(t, at.Equal(again))
	require.NotNil(t, tokensAt)
	require.False(t, active(a))
	require.True(t, active(b))
	require.True(t, active(uuid.Nil), "no key asked for it")
	_, once, err := r.RevokeAPIKey(ctx, tenant, a, false)
	require.NoError(t, err)
	require.True(t, tokensAt.Equal(*once), "nothing makes them valid again")
	_, _, err = r.RevokeAPIKey(ctx, "other", b, true)
	require.ErrorIs(t, err, promise.ErrNotFound)
	require.True(t, active(b))
}
