// Package auth proves who calls: by a tenant's API key, which the database
// knows by its hash, or by a promise token, which is signed. What they may do
// is the domain's rule: promise.Principal.May.
package auth

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"log/slog"
	"slices"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/uuid"

	"github.com/flovyn/promises/shared/promise"
)

const (
	// PositiveTTL is for how long an answer that lets in is used again. The HTTP API
	// in front may keep what it was told for 15 s more, and a call may wait for 25:
	// within a minute of its revocation a key is told nothing any more.
	PositiveTTL = 15 * time.Second

	// NegativeTTL is for how long an answer that keeps out is used again.
	NegativeTTL = 60 * time.Second

	// CacheSize is how many answers of each kind are kept.
	CacheSize = 10_000

	// lookupTimeout limits a look-up, which does not end with the call that began
	// it: others may wait for it, too. An authorizer that gives up leaves the
	// operation most of the time that its caller is to wait.
	lookupTimeout = 1500 * time.Millisecond
)

// Store knows keys and tenants. Of what is unknown it says promise.ErrNotFound;
// every other error is a fault of its own.
type Store interface {
	FindAPIKey(ctx context.Context, hash []byte) (promise.APIKey, error)
	// TokenActive reports whether a promise token is in force: see Token for keyID and revokedAt.
	TokenActive(ctx context.Context, tenant string, promiseID, keyID uuid.UUID, revokedAt *time.Time) (bool, error)
}

// Authorizer finds out whose a credential is. It is safe for concurrent use.
type Authorizer struct {
	store        Store
	tokens       *Verifier
	now          func() time.Time
	log          *slog.Logger
	keys         *cache[promise.APIKey]
	tokensActive *cache[struct{}]
}

// NewAuthorizer makes an Authorizer that has asked nothing yet. Why it refuses
// a credential it tells the log alone.
func NewAuthorizer(store Store, tokens *Verifier, now func() time.Time, log *slog.Logger) *Authorizer {
	wall := func() time.Time { return now().Round(0) } // see cache
	return &Authorizer{
		store: store, tokens: tokens, now: wall, log: log,
		keys: newCache[promise.APIKey](wall), tokensActive: newCache[struct{}](wall),
	}
}

// Authorize says whose the credential is: an API key or a promise token, as it
// stands after "Bearer ". Where it is no good, ok is false and the principal is
// promise.Anonymous, with ExpiresAt if an API key has expired. An err says that nothing was found out, because the store
// or the keys' source failed or ctx ended: repeat the call.
//
// A credential that was revoked, or whose tenant was suspended, is let in for up
// to PositiveTTL; one that expires, never.
func (a *Authorizer) Authorize(ctx context.Context, credential string) (p promise.Principal, ok bool, err error) {
	if LooksLikeAPIKey(credential) {
		p, ok, err = a.authorizeKey(ctx, credential)
	} else {
		p, ok, err = a.authorizeToken(ctx, credential)
	}
	if err != nil || !ok {
		return promise.Principal{By: promise.By{Kind: promise.KindAnonymous}, ExpiresAt: p.ExpiresAt}, false, err
	}
	return p, true, nil
}

func (a *Authorizer) authorizeKey(ctx context.Context, secret string) (promise.Principal, bool, error) {
	if !CheckAPIKey(secret) {
		a.refuse(ctx, promise.KindAPIKey, slog.String("cause", "not of the form of a key"))
		return promise.Principal{}, false, nil
	}
	hash := HashAPIKey(secret)
	key, ok, err := a.keys.get(ctx, [sha256.Size]byte(hash), func(ctx context.Context) (promise.APIKey, bool, error) {
		key, err := a.store.FindAPIKey(ctx, hash)
		if errors.Is(err, promise.ErrNotFound) || err == nil && !SameHash(key.Hash, hash) {
			return promise.APIKey{}, false, nil
		}
		return key, err == nil && key.RevokedAt == nil && !key.TenantSuspended && !a.over(key), err
	})
	if err != nil {
		return promise.Principal{}, false, err
	}
	id := slog.String("id", key.ID.String())
	switch {
	case key.RevokedAt != nil:
		a.refuse(ctx, promise.KindAPIKey, slog.String("cause", "revoked"), id)
		return promise.Principal{}, false, nil
	case key.TenantSuspended:
		a.refuse(ctx, promise.KindAPIKey, slog.String("cause", "tenant suspended"), id)
		return promise.Principal{}, false, nil
	case a.over(key):
		a.refuse(ctx, promise.KindAPIKey, slog.String("cause", "expired"), id)
		return promise.Principal{ExpiresAt: *key.ExpiresAt}, false, nil
	case !ok:
		a.refuse(ctx, promise.KindAPIKey, slog.String("cause", "unknown"))
		return promise.Principal{}, false, nil
	}
	p := promise.Principal{
		By:     promise.By{Kind: promise.KindAPIKey, ID: key.ID.String()},
		Tenant: key.Tenant, Scopes: slices.Clone(key.Scopes), // the key stays in the cache
	}
	if key.ExpiresAt != nil {
		p.ExpiresAt = *key.ExpiresAt
	}
	return p, true, nil
}

func (a *Authorizer) authorizeToken(ctx context.Context, s string) (promise.Principal, bool, error) {
	t, err := a.tokens.Verify(ctx, s, a.now())
	switch {
	case errors.Is(err, ErrTokenRefused):
		a.refuse(ctx, promise.KindToken, slog.String("cause", causeOf(err)))
		return promise.Principal{}, false, nil
	case err != nil:
		return promise.Principal{}, false, err
	}
	// Verify takes less than a look-up, so only the look-up is cached. Tokens that the database cannot tell apart share it. A token that is
	// issued after a revocation is another question than the ones before, so their cached refusal does not meet it.
	_, ok, err := a.tokensActive.get(ctx, t.question(), func(ctx context.Context) (struct{}, bool, error) {
		active, err := a.store.TokenActive(ctx, t.Tenant, t.PromiseID, t.APIKeyID, t.RevokedAt)
		if errors.Is(err, promise.ErrNotFound) {
			return struct{}{}, false, nil
		}
		return struct{}{}, active, err
	})
	if err != nil {
		return promise.Principal{}, false, err
	}
	if !ok {
		a.refuse(ctx, promise.KindToken, slog.String("cause", "revoked, or tenant or promise unknown, or tenant suspended"), slog.String("id", t.ID.String()))
		return promise.Principal{}, false, nil
	}
	return promise.Principal{
		By:     promise.By{Kind: promise.KindToken, ID: t.ID.String()},
		Tenant: t.Tenant, PromiseID: t.PromiseID, Verbs: t.Verbs, RawBody: t.RawBody, ExpiresAt: t.ExpiresAt,
	}, true, nil
}

// question identifies what TokenActive is asked about a token. A slug is at the
// end, because the other parts have fixed lengths.
func (t Token) question() [sha256.Size]byte {
	text := slices.Concat(t.PromiseID[:], t.APIKeyID[:])
	at := int64(0)
	if t.RevokedAt != nil {
		at = t.RevokedAt.UnixMicro()
	}
	text = binary.BigEndian.AppendUint64(text, uint64(at)) //nolint:gosec // its bits
	return sha256.Sum256(append(text, t.Tenant...))
}

func (a *Authorizer) over(k promise.APIKey) bool {
	return k.ExpiresAt != nil && !a.now().Before(*k.ExpiresAt)
}

// causeOf tells why a token was refused, in words of our own: the library's
// quote what was in the token.
func causeOf(err error) string {
	for _, known := range []error{
		jwt.ErrTokenExpired, jwt.ErrTokenSignatureInvalid, jwt.ErrTokenUnverifiable, jwt.ErrTokenInvalidIssuer,
		jwt.ErrTokenInvalidAudience, jwt.ErrTokenRequiredClaimMissing, jwt.ErrTokenMalformed,
	} {
		if errors.Is(err, known) {
			return known.Error()
		}
	}
	return "no token of ours"
}

func (a *Authorizer) refuse(ctx context.Context, kind promise.PrincipalKind, attrs ...slog.Attr) {
	a.log.LogAttrs(ctx, slog.LevelInfo, "credential refused", append(attrs, slog.String("kind", string(kind)))...)
}
