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

// Each revocation revokes the tokens that were issued before it, and none that are issued after it.
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
	active := func(t *testing.T, promiseID uuid.UUID, revokedAt *time.Time) bool {
		t.Helper()
		is, err := r.TokenActive(t.Context(), tenant, promiseID, uuid.Nil, revokedAt)
		require.NoError(t, err)
		return is
	}
	require.True(t, active(t, p.ID, nil))

	var before *time.Time
	for n, c := range []struct {
		name string
		i    promise.Identifier
	}{
		{"by id", promise.ByID(p.ID)}, {"by key", byKey(t, "k")}, {"of a settled promise", promise.ByID(p.ID)},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx := t.Context()
			got, err := r.RevokeTokens(ctx, tenant, c.i)
			require.NoError(t, err)
			require.Equal(t, p.ID, got.PromiseID)
			require.WithinDuration(t, time.Now(), got.At, time.Hour)
			require.False(t, active(t, p.ID, before))
			require.True(t, active(t, p.ID, &got.At))
			again, err := r.Create(ctx, tenant, d)
			require.NoError(t, err)
			require.False(t, again.New)
			require.True(t, got.At.Equal(*again.TokensRevokedAt), "a repeated create can issue a valid token")
			before = again.TokensRevokedAt
			if n == 1 { // the third revocation is of a settled promise
				_, err = r.Settle(ctx, tenant, promise.ByID(p.ID), resolved([]byte("1")))
				require.NoError(t, err)
				require.True(t, active(t, p.ID, before), "a settlement revokes no token")
			}
		})
	}
	t.Run("another promise's tokens stay valid", func(t *testing.T) {
		require.True(t, active(t, other.ID, nil))
		require.Equal(t, "1 PROMISE_CREATED", events(t, db, other.WorkflowExecutionID))
	})
	t.Run("the promise keeps its value", func(t *testing.T) {
		stored, err := r.Get(t.Context(), tenant, promise.ByID(p.ID))
		require.NoError(t, err)
		require.Equal(t, []byte("1"), stored.Value)
	})
	t.Run("two revocations differ even if the clock was set back", func(t *testing.T) {
		db.Exec(t, "UPDATE promise SET tokens_revoked_at = NOW() + INTERVAL '1 day' WHERE id = $1", p.ID)
		first, err := r.RevokeTokens(t.Context(), tenant, promise.ByID(p.ID))
		require.NoError(t, err)
		second, err := r.RevokeTokens(t.Context(), tenant, promise.ByID(p.ID))
		require.NoError(t, err)
		require.Equal(t, time.Microsecond, second.At.Sub(first.At))
		before = &second.At
	})
	db.Tenant(t, "other")
	for slug, i := range map[string]promise.Identifier{"other": promise.ByID(p.ID), "nobody": promise.ByID(p.ID), tenant: byKey(t, "unknown")} {
		t.Run("revoke finds no promise of tenant "+slug, func(t *testing.T) {
			_, err := r.RevokeTokens(t.Context(), slug, i)
			require.ErrorIs(t, err, promise.ErrNotFound)
		})
	}
	for slug, id := range map[string]uuid.UUID{"other": p.ID, "nobody": p.ID, tenant: uuid.New()} {
		t.Run("no token is valid for an unknown promise of tenant "+slug, func(t *testing.T) {
			is, err := r.TokenActive(t.Context(), slug, id, uuid.Nil, before)
			require.NoError(t, err)
			require.False(t, is)
		})
	}
	t.Run("no token of a suspended tenant is valid", func(t *testing.T) {
		_, err := r.SuspendTenant(t.Context(), tenant, true)
		require.NoError(t, err)
		require.False(t, active(t, other.ID, nil))
	})
}

// Concurrent revocations, with concurrent settlements, come one after the other and have different times.
func TestConcurrentRevocationsOfTokens(t *testing.T) {
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

// A revoked API key keeps the tokens that it asked for, unless the call revokes them too. Tokens of other keys stay valid.
func TestRevokeAPIKeyWithItsTokens(t *testing.T) {
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
	active := func(t *testing.T, keyID uuid.UUID) bool {
		t.Helper()
		is, err := r.TokenActive(t.Context(), tenant, p.ID, keyID, nil)
		require.NoError(t, err)
		return is
	}
	var revokedAt time.Time
	var tokensRevokedAt *time.Time
	t.Run("a token is valid with its tenant's key alone", func(t *testing.T) {
		require.True(t, active(t, a))
		require.False(t, active(t, foreign))
		require.False(t, active(t, uuid.New()))
	})
	t.Run("a revoked key keeps its tokens", func(t *testing.T) {
		at, tokensAt, err := r.RevokeAPIKey(t.Context(), tenant, a, false)
		require.NoError(t, err)
		require.Nil(t, tokensAt)
		require.True(t, active(t, a))
		revokedAt = at
	})
	t.Run("a second call revokes its tokens too", func(t *testing.T) {
		at, tokensAt, err := r.RevokeAPIKey(t.Context(), tenant, a, true)
		require.NoError(t, err)
		require.True(t, revokedAt.Equal(at), "the first revocation's time")
		require.NotNil(t, tokensAt)
		require.False(t, active(t, a))
		tokensRevokedAt = tokensAt
	})
	t.Run("other tokens stay valid", func(t *testing.T) {
		require.True(t, active(t, b))
		require.True(t, active(t, uuid.Nil), "a token that no key asked for")
	})
	t.Run("revoked tokens stay revoked", func(t *testing.T) {
		_, again, err := r.RevokeAPIKey(t.Context(), tenant, a, false)
		require.NoError(t, err)
		require.True(t, tokensRevokedAt.Equal(*again))
	})
	t.Run("another tenant cannot revoke the key", func(t *testing.T) {
		_, _, err := r.RevokeAPIKey(t.Context(), "other", b, true)
		require.ErrorIs(t, err, promise.ErrNotFound)
		require.True(t, active(t, b))
	})
}
