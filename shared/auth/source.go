package auth

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/flovyn/promises/shared/promise"
)

const (
	// KeysMaxAge is the age at which keys are read again: a change reaches every
	// process within it.
	KeysMaxAge = 5 * time.Minute

	// KeysMaxStale is how long keys are used if they cannot be read again.
	KeysMaxStale = time.Hour

	// KeysRefreshInterval is the age at which an unknown kid makes a process read the
	// public keys again. A token of a key that was registered longer ago than this
	// is never refused because its kid is unknown.
	KeysRefreshInterval = time.Second

	// keysRetry is the pause after a failed read.
	keysRetry = 5 * time.Second
)

// Source returns the keys of this moment. Its error says that they could not be
// read now, not that there are none. It is safe for concurrent use.
type Source[T any] func(context.Context) (T, error)

// Always returns a Source of these keys.
func Always[T any](keys T) Source[T] {
	return func(context.Context) (T, error) { return keys, nil }
}

// Cached keeps keys that are read from elsewhere. It is safe for concurrent use.
type Cached[T any] struct {
	what string // for the log
	read func(context.Context) (T, error)
	now  func() time.Time
	log  *slog.Logger

	mu         sync.Mutex // one call reads, the others wait for it
	keys       T
	failure    error
	got, tried time.Time
}

// NewCached returns a Cached that has read nothing yet.
func NewCached[T any](what string, read func(context.Context) (T, error), now func() time.Time, log *slog.Logger) *Cached[T] {
	return &Cached[T]{what: what, read: read, now: now, log: log}
}

// Get returns the keys, which are at most KeysMaxAge old. If they cannot be read
// again, it logs that and returns the old ones, for up to KeysMaxStale; without old
// ones it returns the error. After a failure it waits a few seconds before it
// reads again.
func (c *Cached[T]) Get(ctx context.Context) (T, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.clock()
	keys, err := c.younger(ctx, now, KeysMaxAge)
	if err != nil && !c.got.IsZero() && now.Sub(c.got) < KeysMaxStale {
		return c.keys, nil
	}
	return keys, err
}

// Refresh returns keys that are at most KeysRefreshInterval old, or an error.
func (c *Cached[T]) Refresh(ctx context.Context) (T, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.younger(ctx, c.clock(), KeysRefreshInterval)
}

// clock leaves the monotonic clock out: it may stand still while Lambda freezes
// the process.
func (c *Cached[T]) clock() time.Time { return c.now().Round(0) }

func (c *Cached[T]) younger(ctx context.Context, now time.Time, age time.Duration) (keys T, err error) {
	if !c.got.IsZero() && now.Sub(c.got) < age {
		return c.keys, nil
	}
	if c.failure == nil || now.Sub(c.tried) >= keysRetry {
		c.tried = now
		// The read may serve other calls, so it does not end with this one.
		read, err := c.read(context.WithoutCancel(ctx))
		if err == nil {
			c.keys, c.got, c.failure = read, now, nil
			return c.keys, nil
		}
		c.failure = fmt.Errorf("the %s cannot be read: %w", c.what, err)
		c.log.ErrorContext(ctx, c.what, "cause", c.failure.Error(), "serveOn", !c.got.IsZero())
	}
	return keys, c.failure
}

// SigningKeyStore lists the public halves of the keys whose tokens are valid, and a row
// of promise.LegacyKID while legacy tokens are.
type SigningKeyStore interface {
	ListSigningKeys(ctx context.Context) ([]promise.SigningKey, error)
}

// Verifier verifies promise tokens with the keys of this moment. It is safe for
// concurrent use.
type Verifier struct {
	public *Cached[publicKeys]
	legacy Source[VerificationKeys]
}

type publicKeys struct {
	VerificationKeys
	legacy bool // legacy tokens are valid, too
}

// NewVerifier makes a Verifier that has read nothing yet. Legacy tokens are
// verified with the keys of legacy.
func NewVerifier(store SigningKeyStore, legacy Source[VerificationKeys], now func() time.Time, log *slog.Logger) *Verifier {
	read := func(ctx context.Context) (publicKeys, error) {
		ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
		defer cancel()
		rows, err := store.ListSigningKeys(ctx)
		if err != nil {
			return publicKeys{}, err
		}
		keys, err := ParsePublicKeys(rows)
		return publicKeys{keys, slices.ContainsFunc(rows, func(k promise.SigningKey) bool { return k.KID == promise.LegacyKID })}, err
	}
	return &Verifier{NewCached("public signing keys", read, now, log), legacy}
}

// Verify is Keys.Verify with the keys of this moment. An error that is not
// ErrTokenRefused says that nothing was found out, because keys could not be read.
func (v *Verifier) Verify(ctx context.Context, s string, now time.Time) (Token, error) {
	var failure error
	t, err := verify(s, now, func(kid string) (tokenKey, error) {
		key, err := v.find(ctx, kid)
		if !errors.Is(err, errUnknownKID) {
			failure = err
		}
		return key, err
	})
	if failure != nil {
		return Token{}, failure
	}
	return t, err
}

var publicKID = regexp.MustCompile(`^` + publicPrefix + `[0-9a-f]{16}$`)

func (v *Verifier) find(ctx context.Context, kid string) (tokenKey, error) {
	known, err := v.public.Get(ctx)
	if err != nil {
		return tokenKey{}, err
	}
	if !strings.HasPrefix(kid, publicPrefix) {
		if !known.legacy {
			return tokenKey{}, errUnknownKID
		}
		legacy, err := v.legacy(ctx)
		if err != nil {
			return tokenKey{}, err
		}
		return legacy.find(kid)
	}
	key, err := known.find(kid)
	if err == nil || !publicKID.MatchString(kid) {
		return key, err
	}
	if known, err = v.public.Refresh(ctx); err != nil {
		return tokenKey{}, err
	}
	return known.find(kid)
}

// Signing returns a Source of the key that signs. It returns a key only once it
// has read the key's public half from the store, so that no token is signed which
// no process can verify. A revoked key is replaced by what private holds now.
func (v *Verifier) Signing(private *Cached[SigningKey]) Source[SigningKey] {
	return func(ctx context.Context) (SigningKey, error) {
		key, err := private.Get(ctx)
		if err != nil {
			return SigningKey{}, err
		}
		if _, err = v.find(ctx, key.Public().KID); !errors.Is(err, errUnknownKID) {
			return key, err
		}
		if key, err = private.Refresh(ctx); err != nil {
			return SigningKey{}, err
		}
		if _, err = v.find(ctx, key.Public().KID); err != nil {
			err = fmt.Errorf("signing key %s: its public half is not in signing_key, run migrate: %w", key.Public().KID, err)
		}
		return key, err
	}
}
