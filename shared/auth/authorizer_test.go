package auth_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/auth"
	"github.com/flovyn/promises/shared/promise"
)

// store is a database that counts what it is asked.
type store struct {
	mu      sync.Mutex
	keys    map[string]promise.APIKey // by hash
	tenants map[string]bool
	revoked map[uuid.UUID]bool // API keys whose tokens are revoked
	last    *time.Time         // the last revocation of the promise's tokens
	err     error
	asked   int
	takes   time.Duration
}

func (s *store) ask(ctx context.Context) error {
	s.mu.Lock()
	s.asked++
	takes := s.takes
	s.mu.Unlock()
	if takes > 0 {
		select {
		case <-time.After(takes):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

func (s *store) FindAPIKey(ctx context.Context, hash []byte) (promise.APIKey, error) {
	if err := s.ask(ctx); err != nil {
		return promise.APIKey{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	k, ok := s.keys[string(hash)]
	if !ok {
		return k, promise.ErrNotFound
	}
	return k, nil
}

func (s *store) TokenActive(ctx context.Context, slug string, promiseID, keyID uuid.UUID, revokedAt *time.Time) (bool, error) {
	if err := s.ask(ctx); err != nil {
		return false, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	active, ok := s.tenants[slug]
	if !ok {
		return false, promise.ErrNotFound
	}
	same := s.last == nil && revokedAt == nil || s.last != nil && revokedAt != nil && s.last.Equal(*revokedAt)
	return active && promiseID == good.PromiseID && same && !s.revoked[keyID], nil
}

// put stores a key of "acme", changed as told, and returns its secret.
func (s *store) put(change func(*promise.APIKey)) string {
	secret := auth.NewAPIKey()
	k := promise.APIKey{
		ID: uuid.New(), Tenant: "acme", Scopes: []promise.Scope{promise.ScopeSettle}, Hash: auth.HashAPIKey(secret),
	}
	if change != nil {
		change(&k)
	}
	s.keys[string(auth.HashAPIKey(secret))] = k
	return secret
}

func (s *store) change(secret string, change func(*promise.APIKey)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	k := s.keys[string(auth.HashAPIKey(secret))]
	change(&k)
	s.keys[string(auth.HashAPIKey(secret))] = k
}

type world struct {
	*auth.Authorizer
	t     testing.TB
	store *store
	keys  auth.SigningKey
	log   bytes.Buffer
	skew  time.Duration // of the clock that the authorizer reads
}

func newWorld(t testing.TB) *world {
	w := &world{
		t: t, store: &store{keys: map[string]promise.APIKey{}, tenants: map[string]bool{"acme": true, "closed": false}, revoked: map[uuid.UUID]bool{}},
		keys: signingKey(t, oldPrivate),
	}
	w.Authorizer = auth.NewAuthorizer(w.store, newVerifier(t, auth.VerificationKeys{}, w.keys.Public()), func() time.Time { return time.Now().Add(w.skew) },
		slog.New(slog.NewTextHandler(&w.log, nil)))
	return w
}

// authorize checks what ok must go with, and that the log keeps the secret.
func (w *world) authorize(credential string) (promise.Principal, bool) {
	w.t.Helper()
	p, ok, err := w.Authorize(w.t.Context(), credential)
	require.NoError(w.t, err)
	require.Equal(w.t, ok, p.Kind == promise.KindAPIKey || p.Kind == promise.KindToken)
	if !ok {
		require.Equal(w.t, promise.Principal{By: promise.By{Kind: promise.KindAnonymous}, ExpiresAt: p.ExpiresAt}, p)
		require.False(w.t, p.ExpiresAt.After(time.Now().Add(w.skew)), "only of a key that has expired")
	}
	if len(credential) > 12 {
		require.NotContains(w.t, w.log.String(), credential[8:])
	}
	return p, ok
}

func (w *world) requireAuthorized(ok bool, asked int, credential string, what ...any) {
	w.t.Helper()
	w.store.asked = 0
	_, got := w.authorize(credential)
	require.Equal(w.t, ok, got, what...)
	require.Equal(w.t, asked, w.store.asked, "look-ups")
}

func (w *world) token(tenant string, ttl time.Duration) string {
	t := good
	t.Tenant = tenant
	return w.sign(t, ttl)
}

func (w *world) sign(t auth.Token, ttl time.Duration) string {
	t.ExpiresAt = time.Now().Add(ttl)
	s, err := w.keys.Sign(t, time.Now())
	require.NoError(w.t, err)
	return s
}

func inTime(t *testing.T, f func(t *testing.T, w *world)) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) { f(t, newWorld(t)) })
}

func TestAuthorizeKey(t *testing.T) {
	inTime(t, func(t *testing.T, w *world) {
		secret := w.store.put(nil)
		stored := w.store.keys[string(auth.HashAPIKey(secret))]
		for range 2 {
			p, ok := w.authorize(secret)
			require.True(t, ok)
			require.Equal(t, promise.Principal{
				By: promise.By{Kind: promise.KindAPIKey, ID: stored.ID.String()}, Tenant: "acme", Scopes: stored.Scopes,
			}, p)
			p.Scopes[0] = promise.ScopeCreate // the caller's own
		}
		require.Equal(t, 1, w.store.asked)
		require.Empty(t, w.log.String())

		past := time.Now()
		w.requireAuthorized(false, 1, w.store.put(func(k *promise.APIKey) { k.RevokedAt = new(time.Time) }))
		w.requireAuthorized(false, 1, w.store.put(func(k *promise.APIKey) { k.TenantSuspended = true }))
		w.requireAuthorized(false, 1, w.store.put(func(k *promise.APIKey) { k.ExpiresAt = &past }))
		w.requireAuthorized(false, 1, w.store.put(func(k *promise.APIKey) { k.Hash = nil }), "another key than was asked for")
		w.requireAuthorized(false, 1, auth.NewAPIKey(), "unknown")
		for _, cause := range []string{"revoked", `"tenant suspended"`, "expired", "unknown"} {
			require.Contains(t, w.log.String(), "cause="+cause)
		}
	})
}

func TestNoCredentialAsksTheDatabase(t *testing.T) {
	inTime(t, func(t *testing.T, w *world) {
		secret := w.store.put(nil)
		token := w.token("acme", time.Hour)
		for _, credential := range []string{
			"", "prk_", secret[:50], secret + "0", "x" + secret, strings.ToUpper(secret), secret[:49] + secret[50:] + "0",
			"Bearer " + secret, token + "x", token[1:], "Bearer " + token, "basic", strings.Repeat("prk_", 1<<16), strings.Repeat("x", 1<<20),
		} {
			w.requireAuthorized(false, 0, credential, "%.80s", credential)
		}
	})
}

// A key that is over is no good one: it is looked up once a minute, however often it is tried.
func TestExpiredKeyIsNotLookedUpAgain(t *testing.T) {
	inTime(t, func(t *testing.T, w *world) {
		past := time.Now().Add(-time.Second)
		secret := w.store.put(func(k *promise.APIKey) { k.ExpiresAt = &past })
		w.requireAuthorized(false, 1, secret)
		p, _ := w.authorize(secret)
		err := p.May(promise.Need{Scope: promise.ScopeRead}, "acme", promise.Identifier{})
		require.ErrorContains(t, err, "expired at "+past.UTC().Format(time.RFC3339))
		for range 59 {
			time.Sleep(time.Second)
			w.requireAuthorized(false, 0, secret)
		}
	})
}

func TestAuthorizeToken(t *testing.T) {
	inTime(t, func(t *testing.T, w *world) {
		p, ok := w.authorize(w.token("acme", time.Hour))
		require.True(t, ok)
		require.WithinDuration(t, time.Now().Add(time.Hour), p.ExpiresAt, time.Minute)
		p.ExpiresAt = time.Time{}
		require.Equal(t, promise.Principal{
			By: promise.By{Kind: promise.KindToken, ID: good.ID.String()}, Tenant: "acme", PromiseID: good.PromiseID, Verbs: good.Verbs,
		}, p)
		w.requireAuthorized(true, 0, w.token("acme", time.Minute), "the tenant is known")
		for _, tenant := range []string{"closed", "unknown"} {
			w.requireAuthorized(false, 1, w.token(tenant, time.Hour))
			w.requireAuthorized(false, 0, w.token(tenant, time.Minute))
		}
		s := w.token("acme", 10*time.Second)
		w.requireAuthorized(true, 0, s)
		time.Sleep(10 * time.Second)
		w.requireAuthorized(false, 0, s, "it is over although the tenant is cached")
		w.store.tenants["acme"] = false
		time.Sleep(auth.PositiveTTL - 10*time.Second)
		w.requireAuthorized(false, 1, w.token("acme", time.Hour), "suspended")
	})
}

// Tokens that the database can tell apart are looked up apart: a refusal meets no token that was issued after the revocation.
func TestRevokedTokens(t *testing.T) {
	inTime(t, func(t *testing.T, w *world) {
		before := w.token("acme", time.Hour)
		w.requireAuthorized(true, 1, before)
		first := time.Now().Truncate(time.Microsecond)
		w.store.last = &first
		after := good
		after.RevokedAt = &first
		w.requireAuthorized(true, 1, w.sign(after, time.Hour), "at once, in the same second")
		time.Sleep(auth.PositiveTTL)
		w.requireAuthorized(false, 1, before, "revoked")
		w.requireAuthorized(false, 0, w.token("acme", time.Hour), "all of them")
		w.requireAuthorized(true, 1, w.sign(after, time.Hour))
		second := first.Add(time.Microsecond)
		w.store.last = &second
		again := good
		again.RevokedAt = &second
		w.requireAuthorized(true, 1, w.sign(again, time.Hour))
		time.Sleep(auth.PositiveTTL)
		w.requireAuthorized(false, 1, w.sign(after, time.Hour))
		require.Contains(t, w.log.String(), "revoked")

		asked := again
		asked.APIKeyID = uuid.New()
		w.requireAuthorized(true, 1, w.sign(asked, time.Hour))
		w.store.revoked[asked.APIKeyID] = true
		w.requireAuthorized(true, 0, w.sign(asked, time.Hour), "for as long as a key")
		time.Sleep(auth.PositiveTTL)
		w.requireAuthorized(false, 1, w.sign(asked, time.Hour))
		w.requireAuthorized(true, 1, w.sign(again, time.Hour), "another key asked for it, or none")
		asked.APIKeyID = uuid.New()
		w.requireAuthorized(true, 1, w.sign(asked, time.Hour))
		asked.PromiseID = uuid.New()
		w.requireAuthorized(false, 1, w.sign(asked, time.Hour), "no such promise")

		asked = again
		asked.RawBody = true
		p, ok := w.authorize(w.sign(asked, time.Hour))
		require.True(t, ok)
		require.True(t, p.RawBody)
	})
}

func TestRevokedKeyIsDeadInTime(t *testing.T) {
	inTime(t, func(t *testing.T, w *world) {
		w.store.takes = time.Second // what was found out may be as old as the question
		secret := w.store.put(nil)
		w.requireAuthorized(true, 1, secret)
		w.store.change(secret, func(k *promise.APIKey) { k.RevokedAt = new(time.Time) })
		time.Sleep(auth.PositiveTTL - time.Second - time.Nanosecond)
		w.requireAuthorized(true, 0, secret)
		time.Sleep(time.Nanosecond)
		w.requireAuthorized(false, 1, secret)

		w.store.change(secret, func(k *promise.APIKey) { k.RevokedAt = nil })
		time.Sleep(auth.NegativeTTL - time.Second - time.Nanosecond)
		w.requireAuthorized(false, 0, secret)
		time.Sleep(time.Nanosecond)
		w.requireAuthorized(true, 1, secret)
	})
}

func TestCachedKeyExpires(t *testing.T) {
	inTime(t, func(t *testing.T, w *world) {
		end := time.Now().Add(10 * time.Second)
		secret := w.store.put(func(k *promise.APIKey) { k.ExpiresAt = &end })
		w.requireAuthorized(true, 1, secret)
		time.Sleep(10*time.Second - time.Nanosecond)
		w.requireAuthorized(true, 0, secret)
		time.Sleep(time.Nanosecond)
		w.requireAuthorized(false, 0, secret)
	})
}

func TestClockSetBack(t *testing.T) {
	inTime(t, func(t *testing.T, w *world) {
		secret := w.store.put(nil)
		w.requireAuthorized(true, 1, secret)
		w.skew = -time.Hour
		w.requireAuthorized(true, 1, secret, "an answer from the future is not used")
		w.skew = 0
		secret = w.store.put(nil)
		w.requireAuthorized(true, 1, secret)
		w.store.change(secret, func(k *promise.APIKey) { k.RevokedAt = new(time.Time) })
		time.Sleep(auth.PositiveTTL)
		w.requireAuthorized(false, 1, secret)
		w.skew = -auth.PositiveTTL
		w.requireAuthorized(false, 1, secret, "an answer that was overruled does not come back")
	})
}

func TestFaultsAreNotKept(t *testing.T) {
	inTime(t, func(t *testing.T, w *world) {
		fault := errors.New("connection refused")
		for _, credential := range []string{w.store.put(nil), w.token("acme", time.Hour)} {
			w.store.err = fault
			for range 2 {
				p, ok, err := w.Authorize(t.Context(), credential)
				require.ErrorIs(t, err, fault)
				require.NotContains(t, err.Error(), credential)
				require.False(t, ok)
				require.Equal(t, promise.KindAnonymous, p.Kind)
			}
			w.store.err = nil
			w.requireAuthorized(true, 1, credential)

			w.store.err = fault
			w.requireAuthorized(true, 0, credential, "what is known needs no database")
			time.Sleep(auth.PositiveTTL)
			_, ok, err := w.Authorize(t.Context(), credential)
			require.ErrorIs(t, err, fault, "but not for longer")
			require.False(t, ok)
		}
	})
}

func TestOneLookupForAll(t *testing.T) {
	inTime(t, func(t *testing.T, w *world) {
		w.store.takes = time.Second
		for _, credential := range []string{w.store.put(nil), auth.NewAPIKey(), w.token("acme", time.Hour), w.token("closed", time.Hour)} {
			w.store.asked = 0
			var wg sync.WaitGroup
			for i := range 50 {
				wg.Go(func() {
					time.Sleep(time.Duration(i) * 25 * time.Millisecond) // some come when it is over
					_, _, err := w.Authorize(t.Context(), credential)
					require.NoError(t, err)
				})
			}
			wg.Wait()
			require.Equal(t, 1, w.store.asked)
		}
	})
}

func TestLookupOutlivesWhoBeganIt(t *testing.T) {
	inTime(t, func(t *testing.T, w *world) {
		w.store.takes = 1200 * time.Millisecond
		secret := w.store.put(nil)
		hasty, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		var wg sync.WaitGroup
		wg.Go(func() {
			_, ok, err := w.Authorize(hasty, secret)
			require.ErrorIs(t, err, context.DeadlineExceeded)
			require.False(t, ok)
		})
		wg.Go(func() {
			time.Sleep(time.Millisecond)
			_, ok, err := w.Authorize(t.Context(), secret)
			require.NoError(t, err)
			require.True(t, ok)
		})
		wg.Wait()
		require.Equal(t, 1, w.store.asked)

		w.store.takes = time.Hour
		start := time.Now()
		_, _, err := w.Authorize(t.Context(), auth.NewAPIKey())
		require.ErrorIs(t, err, context.DeadlineExceeded, "and it ends")
		require.LessOrEqual(t, time.Since(start), 1500*time.Millisecond, "and leaves the operation most of the time that a caller waits")
	})
}

func TestBadCredentialsDriveOutNoGoodOne(t *testing.T) {
	inTime(t, func(t *testing.T, w *world) {
		secret, first := w.store.put(nil), auth.NewAPIKey()
		w.requireAuthorized(true, 1, secret)
		w.requireAuthorized(false, 1, first)
		for range auth.CacheSize {
			_, ok, err := w.Authorize(t.Context(), auth.NewAPIKey())
			require.NoError(t, err)
			require.False(t, ok)
		}
		w.requireAuthorized(true, 0, secret)
		w.requireAuthorized(false, 1, first, "the oldest went: the cache is bounded")
	})
}

func BenchmarkAuthorize(b *testing.B) {
	w := newWorld(b)
	w.Authorizer = auth.NewAuthorizer(w.store, newVerifier(b, auth.VerificationKeys{}, w.keys.Public()), time.Now, slog.New(slog.NewTextHandler(io.Discard, nil)))
	for name, credential := range map[string]string{
		"key": w.store.put(nil), "token": w.token("acme", 24*time.Hour), "unknown": auth.NewAPIKey(), "mistyped": auth.NewAPIKey()[:50] + "!",
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_, _, err := w.Authorize(b.Context(), credential)
				require.NoError(b, err)
			}
		})
	}
}

// HMAC is what earlier releases signed with, for comparison.
func BenchmarkVerify(b *testing.B) {
	for name, k := range kinds(b) {
		s := k.forge(k.header, payload)
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := k.keys.Verify(s, now); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkSign(b *testing.B) {
	key := signingKey(b, oldPrivate)
	b.Run("Ed25519", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := key.Sign(good, now); err != nil {
				b.Fatal(err)
			}
		}
	})
	claims := jwt.MapClaims{
		"iss": "promises", "aud": "promise", "sub": good.PromiseID.String(), "ten": good.Tenant, "vrb": good.Verbs,
		"iat": now.Unix(), "exp": good.ExpiresAt.Unix(), "jti": good.ID.String(),
	}
	b.Run("HMAC", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := jwt.NewWithClaims(jwt.SigningMethodHS256, claims).SignedString(oldSecret); err != nil {
				b.Fatal(err)
			}
		}
	})
}
