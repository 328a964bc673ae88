// Package auth authenticates callers: by a tenant's API key, which the database
// knows by its hash, or by a promise token, which is signed. The domain decides
// what a caller may do: see promise.Principal.May.
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
	// PositiveTTL is the time for which a positive answer is cached. API Gateway may
	// cache it for 15 s more, and a call may wait for 25 s. So a revoked API key stops
	// working within a minute.
	PositiveTTL = 15 * time.Second

	// NegativeTTL is the time for which a negative answer is cached.
	NegativeTTL = 60 * time.Second

	// CacheSize is the number of positive answers, and of negative ones, that the
	// cache of API keys and the cache of tokens each hold.
	CacheSize = 10_000

	// lookupTimeout limits a database look-up. The look-up does not end with the
	// call that began it, because other calls may wait for it. The limit leaves the
	// operation most of the time that its caller waits.
	lookupTimeout = 1500 * time.Millisecond
)

// A Store looks up API keys and tokens. It returns promise.ErrNotFound for an
// unknown key, tenant or promise; every other error is a failure of the store.
type Store interface {
	FindAPIKey(ctx context.Context, hash []byte) (promise.APIKey, error)
	// TokenActive reports whether a promise token is in force. Token describes keyID and revokedAt.
	TokenActive(ctx context.Context, tenant string, promiseID, keyID uuid.UUID, revokedAt *time.Time) (bool, error)
}

// An Authorizer finds the principal of a credential. It is safe for concurrent use.
type Authorizer struct {
	store        Store
	tokens       *Verifier
	now          func() time.Time
	log          *slog.Logger
	apiKeys      *cache[promise.APIKey]
	activeTokens *cache[struct{}]
}

// NewAuthorizer returns an Authorizer with empty caches. The Authorizer writes the
// cause of a refusal to the log only.
func NewAuthorizer(store Store, tokens *Verifier, now func() time.Time, log *slog.Logger) *Authorizer {
	wall := func() time.Time { return now().Round(0) } // see cache
	return &Authorizer{
		store: store, tokens: tokens, now: wall, log: log,
		apiKeys: newCache[promise.APIKey](wall), activeTokens: newCache[struct{}](wall),
	}
}

// Authorize returns the principal of a credential: an API key or a promise token,
// without "Bearer ". If the credential is invalid, ok is false and the principal is
// promise.KindAnonymous; its ExpiresAt is set if an API key has expired. An error
// means that the credential could not be checked, because the store or the source
// of the verification keys failed or ctx ended; the caller may repeat the call.
//
// A credential that was revoked, or whose tenant was suspended, is accepted for up
// to PositiveTTL. An expired credential is refused at once.
func (a *Authorizer) Authorize(ctx context.Context, credential string) (p promise.Principal, ok bool, err error) {
	if LooksLikeAPIKey(credential) {
		p, ok, err = a.authorizeAPIKey(ctx, credential)
	} else {
		p, ok, err = a.authorizeToken(ctx, credential)
	}
	if err != nil || !ok {
		return promise.Principal{By: promise.By{Kind: promise.KindAnonymous}, ExpiresAt: p.ExpiresAt}, false, err
	}
	return p, true, nil
}

func (a *Authorizer) authorizeAPIKey(ctx context.Context, secret string) (promise.Principal, bool, error) {
	if !CheckAPIKey(secret) {
		a.refuse(ctx, promise.KindAPIKey, slog.String("cause", "malformed API key"))
		return promise.Principal{}, false, nil
	}
	hash := HashAPIKey(secret)
	key, ok, err := a.apiKeys.get(ctx, [sha256.Size]byte(hash), func(ctx context.Context) (promise.APIKey, bool, error) {
		key, err := a.store.FindAPIKey(ctx, hash)
		if errors.Is(err, promise.ErrNotFound) || err == nil && !SameHash(key.Hash, hash) {
			return promise.APIKey{}, false, nil
		}
		return key, err == nil && key.RevokedAt == nil && !key.TenantSuspended && !a.expired(key), err
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
	case a.expired(key):
		a.refuse(ctx, promise.KindAPIKey, slog.String("cause", "expired"), id)
		return promise.Principal{ExpiresAt: *key.ExpiresAt}, false, nil
	case !ok:
		a.refuse(ctx, promise.KindAPIKey, slog.String("cause", "unknown"))
		return promise.Principal{}, false, nil
	}
	p := promise.Principal{
		By:     promise.By{Kind: promise.KindAPIKey, ID: key.ID.String()},
		Tenant: key.Tenant, Scopes: slices.Clone(key.Scopes), // the cached key is shared by all callers
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
	// Verify takes less time than a look-up, so only the look-up is cached. Tokens with the same lookupHash share its answer. A token that
	// is issued after a revocation has another lookupHash, so the cached refusal of earlier tokens does not affect it.
	_, ok, err := a.activeTokens.get(ctx, t.lookupHash(), func(ctx context.Context) (struct{}, bool, error) {
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

// lookupHash returns a hash of TokenActive's arguments for the token. The tenant's
// slug comes last, because the other arguments have fixed lengths.
func (t Token) lookupHash() [sha256.Size]byte {
	text := slices.Concat(t.PromiseID[:], t.APIKeyID[:])
	at := int64(0)
	if t.RevokedAt != nil {
		at = t.RevokedAt.UnixMicro()
	}
	text = binary.BigEndian.AppendUint64(text, uint64(at)) //nolint:gosec // its bits
	return sha256.Sum256(append(text, t.Tenant...))
}

func (a *Authorizer) expired(k promise.APIKey) bool {
	return k.ExpiresAt != nil && !a.now().Before(*k.ExpiresAt)
}

// causeOf returns a fixed text for the cause of a token's refusal, because the JWT
// library's error may quote the token.
func causeOf(err error) string {
	for _, known := range []error{
		jwt.ErrTokenExpired, jwt.ErrTokenSignatureInvalid, jwt.ErrTokenUnverifiable, jwt.ErrTokenInvalidIssuer,
		jwt.ErrTokenInvalidAudience, jwt.ErrTokenRequiredClaimMissing, jwt.ErrTokenMalformed,
	} {
		if errors.Is(err, known) {
			return known.Error()
		}
	}
	return "not a valid promise token"
}

func (a *Authorizer) refuse(ctx context.Context, kind promise.PrincipalKind, attrs ...slog.Attr) {
	a.log.LogAttrs(ctx, slog.LevelInfo, "credential refused", append(attrs, slog.String("kind", string(kind)))...)
}
