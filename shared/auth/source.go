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
	// KeysMaxAge is the age at which keys are read again. A change reaches every
	// process within this time.
	KeysMaxAge = 5 * time.Minute

	// KeysMaxStale is the age up to which keys are used if they cannot be read again.
	KeysMaxStale = time.Hour

	// KeysRefreshInterval is the age at which an unknown kid makes a process read the
	// public keys again. If a key was registered longer ago than this, its tokens are
	// never refused for an unknown kid.
	KeysRefreshInterval = time.Second

	// retryPause is the minimal time between a failed read and the next one.
	retryPause = 5 * time.Second
)

// A Source is a function that returns the current keys. Its error means that they
// could not be read, not that there are none. It is safe for concurrent use.
type Source[T any] func(context.Context) (T, error)

// Always returns a Source that returns the given keys.
func Always[T any](keys T) Source[T] {
	return func(context.Context) (T, error) { return keys, nil }
}

// A Cached is a cache of keys that a function reads. It is safe for concurrent use.
type Cached[T any] struct {
	name string // for errors and the log
	read func(context.Context) (T, error)
	now  func() time.Time
	log  *slog.Logger

	mu              sync.Mutex // locked during a read, so that one call reads and the others wait
	keys            T
	failure         error // of the last read
	readAt, triedAt time.Time
}

// NewCached returns a Cached that calls read when keys are first needed. name says which keys they are.
func NewCached[T any](name string, read func(context.Context) (T, error), now func() time.Time, log *slog.Logger) *Cached[T] {
	return &Cached[T]{name: name, read: read, now: now, log: log}
}

// Get returns keys that are at most KeysMaxAge old. If a reload fails, Get logs the
// failure and returns the old keys until they are KeysMaxStale old. Without usable
// old keys it returns the error. After a failed read, a few seconds pass before the
// next one.
func (c *Cached[T]) Get(ctx context.Context) (T, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.clock()
	keys, err := c.notOlder(ctx, now, KeysMaxAge)
	if err != nil && !c.readAt.IsZero() && now.Sub(c.readAt) < KeysMaxStale {
		return c.keys, nil
	}
	return keys, err
}

// Refresh returns keys that are at most KeysRefreshInterval old, or an error.
func (c *Cached[T]) Refresh(ctx context.Context) (T, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.notOlder(ctx, c.clock(), KeysRefreshInterval)
}

// clock returns the wall-clock time, because the monotonic clock may stand still
// while Lambda freezes the process.
func (c *Cached[T]) clock() time.Time { return c.now().Round(0) }

// notOlder returns keys that are at most as old as age. It reads them if necessary.
func (c *Cached[T]) notOlder(ctx context.Context, now time.Time, age time.Duration) (keys T, err error) {
	if !c.readAt.IsZero() && now.Sub(c.readAt) < age {
		return c.keys, nil
	}
	if c.failure == nil || now.Sub(c.triedAt) >= retryPause {
		c.triedAt = now
		// Other calls may wait for this read, so it does not end with this call.
		read, err := c.read(context.WithoutCancel(ctx))
		if err == nil {
			c.keys, c.readAt, c.failure = read, now, nil
			return c.keys, nil
		}
		c.failure = fmt.Errorf("read the %s: %w", c.name, err)
		c.log.ErrorContext(ctx, "cannot read the "+c.name, "cause", err.Error(), "haveOldKeys", !c.readAt.IsZero())
	}
	return keys, c.failure
}

// A SigningKeyStore lists the public halves of the signing keys whose tokens are
// valid. While legacy tokens are valid, it also lists a row with promise.LegacyKID.
type SigningKeyStore interface {
	ListSigningKeys(ctx context.Context) ([]promise.SigningKey, error)
}

// A Verifier verifies promise tokens with the current keys. It is safe for
// concurrent use.
type Verifier struct {
	public *Cached[publicKeys]
	legacy Source[VerificationKeys]
}

type publicKeys struct {
	VerificationKeys
	legacy bool // whether legacy tokens are valid
}

// NewVerifier returns a Verifier that reads keys when they are first needed: those
// of Ed25519 tokens from store, those of legacy tokens from legacy.
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

// Verify works as VerificationKeys.Verify, with the current keys. Any error other
// than ErrTokenRefused means that the token could not be checked, because keys could
// not be read.
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

// find returns the key of the kid. It may read the public keys again for an unknown kid.
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

// Signing returns a Source of the signing key that private reads. The Source returns
// a signing key only once it has found the public half in the store, because no
// process could verify the key's tokens before. If the public half is missing, as
// after a revocation, the Source reads private again.
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
			err = fmt.Errorf("the public half of signing key %s is not in the table signing_key; run migrate: %w", key.Public().KID, err)
		}
		return key, err
	}
}
