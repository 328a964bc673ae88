package auth_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/auth"
	"github.com/flovyn/promises/shared/promise"
)

func TestAuthorizeAPIKey(t *testing.T) {
	t.Parallel()
	t.Run("a valid key returns its principal and is looked up once", func(t *testing.T) {
		inBubble(t, func(t *testing.T, w *fixture) {
			secret := w.store.put(nil)
			stored := w.store.apiKeys[string(auth.HashAPIKey(secret))]
			for range 2 {
				p, ok := w.authorize(secret)
				require.True(t, ok)
				require.Equal(t, promise.Principal{
					By: promise.By{Kind: promise.KindAPIKey, ID: stored.ID.String()}, Tenant: "acme", Scopes: stored.Scopes,
				}, p)
				p.Scopes[0] = promise.ScopeCreate // must not change the cached key
			}
			require.Equal(t, 1, w.store.lookUps)
			require.Empty(t, w.log.String())
		})
	})
	for name, c := range map[string]struct {
		change func(*promise.APIKey)
		cause  string
	}{
		"revoked":                             {func(k *promise.APIKey) { k.RevokedAt = new(time.Time) }, "revoked"},
		"tenant suspended":                    {func(k *promise.APIKey) { k.TenantSuspended = true }, `"tenant suspended"`},
		"expired":                             {func(k *promise.APIKey) { k.ExpiresAt = new(time.Now()) }, "expired"},
		"found by a hash that is not its own": {func(k *promise.APIKey) { k.Hash = nil }, "unknown"},
	} {
		t.Run("refused: "+name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, w *fixture) {
				w.requireAuthorized(false, 1, w.store.put(c.change))
				require.Contains(t, w.log.String(), "cause="+c.cause)
			})
		})
	}
	t.Run("refused: unknown", func(t *testing.T) {
		inBubble(t, func(t *testing.T, w *fixture) {
			w.requireAuthorized(false, 1, auth.NewAPIKey())
			require.Contains(t, w.log.String(), "cause=unknown")
		})
	})
}

func TestMalformedCredentialIsNotLookedUp(t *testing.T) {
	t.Parallel()
	for name, credential := range map[string]func(secret, token string) string{
		"empty":                               func(_, _ string) string { return "" },
		"the prefix of an API key":            func(_, _ string) string { return "prk_" },
		"an API key without its end":          func(secret, _ string) string { return secret[:50] },
		"an API key and a character":          func(secret, _ string) string { return secret + "0" },
		"a character and an API key":          func(secret, _ string) string { return "x" + secret },
		"an API key in capitals":              func(secret, _ string) string { return strings.ToUpper(secret) },
		"an API key without one character":    func(secret, _ string) string { return secret[:49] + secret[50:] + "0" },
		"an API key with its scheme":          func(secret, _ string) string { return "Bearer " + secret },
		"a token and a character":             func(_, token string) string { return token + "x" },
		"a token without its first character": func(_, token string) string { return token[1:] },
		"a token with its scheme":             func(_, token string) string { return "Bearer " + token },
		"a word":                              func(_, _ string) string { return "basic" },
		"many prefixes of API keys":           func(_, _ string) string { return strings.Repeat("prk_", 1<<16) },
		"a megabyte":                          func(_, _ string) string { return strings.Repeat("x", 1<<20) },
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(_ *testing.T, w *fixture) {
				w.requireAuthorized(false, 0, credential(w.store.put(nil), w.token("acme", time.Hour)))
			})
		})
	}
}

// The negative cache keeps an expired key: it is looked up once a minute, however often it is tried.
func TestExpiredKeyIsNotLookedUpAgain(t *testing.T) {
	inBubble(t, func(t *testing.T, w *fixture) {
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
	t.Parallel()
	t.Run("a valid token returns its principal", func(t *testing.T) {
		inBubble(t, func(t *testing.T, w *fixture) {
			p, ok := w.authorize(w.token("acme", time.Hour))
			require.True(t, ok)
			require.WithinDuration(t, time.Now().Add(time.Hour), p.ExpiresAt, time.Minute)
			p.ExpiresAt = time.Time{}
			require.Equal(t, promise.Principal{
				By: promise.By{Kind: promise.KindToken, ID: validToken.ID.String()}, Tenant: "acme", PromiseID: validToken.PromiseID, Verbs: validToken.Verbs,
			}, p)
			w.requireAuthorized(true, 0, w.token("acme", time.Minute), "another token of the promise shares the look-up")
		})
	})
	t.Run("raw body", func(t *testing.T) {
		inBubble(t, func(t *testing.T, w *fixture) {
			token := validToken
			token.RawBody = true
			p, ok := w.authorize(w.sign(token, time.Hour))
			require.True(t, ok)
			require.True(t, p.RawBody)
		})
	})
	for name, tenant := range map[string]string{"a suspended tenant": "closed", "an unknown tenant": "unknown"} {
		t.Run("refused: "+name, func(t *testing.T) {
			inBubble(t, func(_ *testing.T, w *fixture) {
				w.requireAuthorized(false, 1, w.token(tenant, time.Hour))
				w.requireAuthorized(false, 0, w.token(tenant, time.Minute), "the answer is cached")
			})
		})
	}
	t.Run("refused: an unknown promise", func(t *testing.T) {
		inBubble(t, func(_ *testing.T, w *fixture) {
			token := validToken
			token.PromiseID = uuid.New()
			w.requireAuthorized(false, 1, w.sign(token, time.Hour))
		})
	})
	t.Run("refused: expired, although its look-up is cached", func(t *testing.T) {
		inBubble(t, func(_ *testing.T, w *fixture) {
			s := w.token("acme", 10*time.Second)
			w.requireAuthorized(true, 1, s)
			time.Sleep(10 * time.Second)
			w.requireAuthorized(false, 0, s)
		})
	})
	t.Run("refused: the tenant was suspended PositiveTTL ago", func(t *testing.T) {
		inBubble(t, func(_ *testing.T, w *fixture) {
			w.requireAuthorized(true, 1, w.token("acme", time.Hour))
			w.store.tenants["acme"] = false
			time.Sleep(auth.PositiveTTL)
			w.requireAuthorized(false, 1, w.token("acme", time.Hour))
		})
	})
}

// Tokens of different revocations have separate look-ups, so the refusal of earlier tokens does not affect later ones.
func TestRevokedTokens(t *testing.T) {
	t.Parallel()
	// revoke revokes the promise's tokens, and returns a token that is issued afterwards.
	revoke := func(w *fixture, after time.Duration) auth.Token {
		at := time.Now().Truncate(time.Microsecond).Add(after)
		w.store.revokedAt = &at
		token := validToken
		token.RevokedAt = &at
		return token
	}
	t.Run("earlier tokens are refused after PositiveTTL", func(t *testing.T) {
		inBubble(t, func(t *testing.T, w *fixture) {
			earlier := w.token("acme", time.Hour)
			w.requireAuthorized(true, 1, earlier)
			revoke(w, 0)
			time.Sleep(auth.PositiveTTL)
			w.requireAuthorized(false, 1, earlier)
			w.requireAuthorized(false, 0, w.token("acme", time.Hour), "all earlier tokens share the answer")
			require.Contains(t, w.log.String(), "revoked")
		})
	})
	t.Run("a later token is accepted at once, in the same second", func(t *testing.T) {
		inBubble(t, func(_ *testing.T, w *fixture) {
			w.requireAuthorized(true, 1, w.token("acme", time.Hour))
			w.requireAuthorized(true, 1, w.sign(revoke(w, 0), time.Hour))
		})
	})
	t.Run("a later token is accepted while the refusal of earlier ones is cached", func(t *testing.T) {
		inBubble(t, func(_ *testing.T, w *fixture) {
			later := revoke(w, 0)
			w.requireAuthorized(false, 1, w.token("acme", time.Hour))
			w.requireAuthorized(true, 1, w.sign(later, time.Hour))
		})
	})
	t.Run("a second revocation refuses the tokens between the two", func(t *testing.T) {
		inBubble(t, func(_ *testing.T, w *fixture) {
			between := revoke(w, 0)
			w.requireAuthorized(true, 1, w.sign(between, time.Hour))
			later := revoke(w, time.Microsecond)
			w.requireAuthorized(true, 1, w.sign(later, time.Hour))
			time.Sleep(auth.PositiveTTL)
			w.requireAuthorized(false, 1, w.sign(between, time.Hour))
		})
	})
	t.Run("tokens of a revoked API key are refused after PositiveTTL", func(t *testing.T) {
		inBubble(t, func(_ *testing.T, w *fixture) {
			later := revoke(w, 0)
			token := later
			token.APIKeyID = uuid.New()
			w.requireAuthorized(true, 1, w.sign(token, time.Hour))
			w.store.revoked[token.APIKeyID] = true
			w.requireAuthorized(true, 0, w.sign(token, time.Hour), "for as long as an API key")
			time.Sleep(auth.PositiveTTL)
			w.requireAuthorized(false, 1, w.sign(token, time.Hour))
			w.requireAuthorized(true, 1, w.sign(later, time.Hour), "no API key requested it")
			token.APIKeyID = uuid.New()
			w.requireAuthorized(true, 1, w.sign(token, time.Hour), "another API key requested it")
		})
	})
}

// The age of a cached answer counts from the start of its look-up, which takes a second here.
func TestCachedAnswersExpire(t *testing.T) {
	t.Parallel()
	revoked := func(k *promise.APIKey) { k.RevokedAt = new(time.Time) }
	t.Run("a revoked key works until PositiveTTL after the look-up began", func(t *testing.T) {
		inBubble(t, func(_ *testing.T, w *fixture) {
			w.store.takes = time.Second
			secret := w.store.put(nil)
			w.requireAuthorized(true, 1, secret)
			w.store.change(secret, revoked)
			time.Sleep(auth.PositiveTTL - time.Second - time.Nanosecond)
			w.requireAuthorized(true, 0, secret)
			time.Sleep(time.Nanosecond)
			w.requireAuthorized(false, 1, secret)
		})
	})
	t.Run("a refusal lasts until NegativeTTL after the look-up began", func(t *testing.T) {
		inBubble(t, func(_ *testing.T, w *fixture) {
			w.store.takes = time.Second
			secret := w.store.put(revoked)
			w.requireAuthorized(false, 1, secret)
			w.store.change(secret, func(k *promise.APIKey) { k.RevokedAt = nil })
			time.Sleep(auth.NegativeTTL - time.Second - time.Nanosecond)
			w.requireAuthorized(false, 0, secret)
			time.Sleep(time.Nanosecond)
			w.requireAuthorized(true, 1, secret)
		})
	})
}

func TestCachedKeyExpires(t *testing.T) {
	inBubble(t, func(_ *testing.T, w *fixture) {
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
	t.Parallel()
	t.Run("an answer from the future is not used", func(t *testing.T) {
		inBubble(t, func(_ *testing.T, w *fixture) {
			secret := w.store.put(nil)
			w.requireAuthorized(true, 1, secret)
			w.skew = -time.Hour
			w.requireAuthorized(true, 1, secret)
		})
	})
	t.Run("an answer that a later one replaced is not used", func(t *testing.T) {
		inBubble(t, func(_ *testing.T, w *fixture) {
			secret := w.store.put(nil)
			w.requireAuthorized(true, 1, secret)
			w.store.change(secret, func(k *promise.APIKey) { k.RevokedAt = new(time.Time) })
			time.Sleep(auth.PositiveTTL)
			w.requireAuthorized(false, 1, secret)
			w.skew = -auth.PositiveTTL
			w.requireAuthorized(false, 1, secret)
		})
	})
}

func TestFaultsAreNotCached(t *testing.T) {
	t.Parallel()
	fault := errors.New("connection refused")
	for name, credential := range map[string]func(*fixture) string{
		"API key": func(w *fixture) string { return w.store.put(nil) },
		"token":   func(w *fixture) string { return w.token("acme", time.Hour) },
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, w *fixture) {
				credential := credential(w)
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
				w.requireAuthorized(true, 0, credential, "a cached answer needs no database")
				time.Sleep(auth.PositiveTTL)
				_, ok, err := w.Authorize(t.Context(), credential)
				require.ErrorIs(t, err, fault, "the cached answer has expired")
				require.False(t, ok)
			})
		})
	}
}

func TestOneLookupForAll(t *testing.T) {
	t.Parallel()
	for name, credential := range map[string]func(*fixture) string{
		"API key":                     func(w *fixture) string { return w.store.put(nil) },
		"unknown API key":             func(*fixture) string { return auth.NewAPIKey() },
		"token":                       func(w *fixture) string { return w.token("acme", time.Hour) },
		"token of a suspended tenant": func(w *fixture) string { return w.token("closed", time.Hour) },
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, w *fixture) {
				w.store.takes = time.Second
				credential := credential(w)
				var wg sync.WaitGroup
				for i := range 50 {
					wg.Go(func() {
						time.Sleep(time.Duration(i) * 25 * time.Millisecond) // some calls come after the look-up
						_, _, err := w.Authorize(t.Context(), credential)
						require.NoError(t, err)
					})
				}
				wg.Wait()
				require.Equal(t, 1, w.store.lookUps)
			})
		})
	}
}

func TestLookup(t *testing.T) {
	t.Parallel()
	t.Run("outlives the call that began it", func(t *testing.T) {
		inBubble(t, func(t *testing.T, w *fixture) {
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
			require.Equal(t, 1, w.store.lookUps)
		})
	})
	t.Run("ends early enough for the operation to answer", func(t *testing.T) {
		inBubble(t, func(t *testing.T, w *fixture) {
			w.store.takes = time.Hour
			start := time.Now()
			_, _, err := w.Authorize(t.Context(), auth.NewAPIKey())
			require.ErrorIs(t, err, context.DeadlineExceeded)
			require.LessOrEqual(t, time.Since(start), 1500*time.Millisecond)
		})
	})
}

func TestInvalidCredentialsEvictNoValidOne(t *testing.T) {
	inBubble(t, func(t *testing.T, w *fixture) {
		secret, first := w.store.put(nil), auth.NewAPIKey()
		w.requireAuthorized(true, 1, secret)
		w.requireAuthorized(false, 1, first)
		for range auth.CacheSize {
			_, ok, err := w.Authorize(t.Context(), auth.NewAPIKey())
			require.NoError(t, err)
			require.False(t, ok)
		}
		w.requireAuthorized(true, 0, secret)
		w.requireAuthorized(false, 1, first, "the cache is bounded, so the oldest invalid key was evicted")
	})
}

func BenchmarkAuthorize(b *testing.B) {
	w := newFixture(b)
	w.Authorizer = auth.NewAuthorizer(w.store, newVerifier(b, auth.VerificationKeys{}, w.key.Public()), time.Now, slog.New(slog.NewTextHandler(io.Discard, nil)))
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

// BenchmarkVerify compares Ed25519 with HMAC, which earlier releases used.
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
			if _, err := key.Sign(validToken, now); err != nil {
				b.Fatal(err)
			}
		}
	})
	claims := jwt.MapClaims{
		"iss": "promises", "aud": "promise", "sub": validToken.PromiseID.String(), "ten": validToken.Tenant, "vrb": validToken.Verbs,
		"iat": now.Unix(), "exp": validToken.ExpiresAt.Unix(), "jti": validToken.ID.String(),
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
