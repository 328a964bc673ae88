package auth_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/auth"
	"github.com/flovyn/promises/shared/promise"
)

// A cachedFixture is a Cached of legacy secrets with its origin, its clock and its log.
type cachedFixture struct {
	*auth.Cached[auth.VerificationKeys]
	t      *testing.T
	origin *origin[string]
	clock  time.Time
	log    bytes.Buffer

	old, made string // tokens of the secrets "old" and "new"
}

// newCached returns a cachedFixture whose origin has the secret "old".
func newCached(t *testing.T) *cachedFixture {
	t.Helper()
	t.Parallel()
	f := &cachedFixture{
		t: t, origin: &origin[string]{value: entry("old", oldSecret)}, clock: now,
		old:  forge(header, payload, sha256.New, oldSecret),
		made: forge(strings.Replace(header, "old", "new", 1), payload, sha256.New, newSecret),
	}
	read := func(ctx context.Context) (auth.VerificationKeys, error) {
		text, err := f.origin.read(ctx)
		if err != nil {
			return auth.VerificationKeys{}, err
		}
		return auth.ParseLegacySecrets(text)
	}
	f.Cached = auth.NewCached("keys", read, func() time.Time { return f.clock }, slog.New(slog.NewTextHandler(&f.log, nil)))
	return f
}

func (f *cachedFixture) verifies(token string) bool {
	f.t.Helper()
	k, err := f.Get(f.t.Context())
	require.NoError(f.t, err)
	_, err = k.Verify(token, now)
	return err == nil
}

func TestCached(t *testing.T) {
	t.Parallel()
	t.Run("reads nothing before keys are needed", func(t *testing.T) {
		require.Zero(t, newCached(t).origin.reads)
	})
	t.Run("a read does not end with the call that began it", func(t *testing.T) {
		f := newCached(t)
		cancelled, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := f.Get(cancelled)
		require.NoError(t, err)
		require.True(t, f.verifies(f.old))
		require.Equal(t, 1, f.origin.reads)
	})
	t.Run("a new key is found after KeysMaxAge", func(t *testing.T) {
		f := newCached(t)
		require.True(t, f.verifies(f.old))
		f.origin.value = entry("old", oldSecret) + "," + entry("new", newSecret)
		f.clock = f.clock.Add(auth.KeysMaxAge - time.Second)
		require.False(t, f.verifies(f.made))
		f.clock = f.clock.Add(time.Second)
		require.True(t, f.verifies(f.made))
		require.True(t, f.verifies(f.old))
		require.Equal(t, 2, f.origin.reads)
	})
	t.Run("a removed key is refused after KeysMaxAge", func(t *testing.T) {
		f := newCached(t)
		require.True(t, f.verifies(f.old))
		f.origin.value = entry("new", newSecret)
		f.clock = f.clock.Add(auth.KeysMaxAge)
		require.False(t, f.verifies(f.old))
		require.Equal(t, 2, f.origin.reads)
	})
	t.Run("the origin fails", func(t *testing.T) {
		f := newCached(t)
		require.True(t, f.verifies(f.old))
		f.origin.err = errors.New("unavailable")
		f.clock = f.clock.Add(auth.KeysMaxAge)
		for range 3 {
			require.True(t, f.verifies(f.old), "the old keys are used")
		}
		require.Equal(t, 2, f.origin.reads, "not every call reads")
		require.Contains(t, f.log.String(), "unavailable")
		_, err := f.Refresh(t.Context())
		require.ErrorIs(t, err, f.origin.err, "Refresh returns no old keys")
		f.clock = f.clock.Add(auth.KeysMaxStale - auth.KeysMaxAge)
		_, err = f.Get(t.Context())
		require.ErrorIs(t, err, f.origin.err, "the old keys are too old")
		f.origin.err = nil
		f.clock = f.clock.Add(5 * time.Second)
		require.True(t, f.verifies(f.old), "the next read succeeds")
	})
	t.Run("a malformed list replaces no keys and is not logged", func(t *testing.T) {
		f := newCached(t)
		require.True(t, f.verifies(f.old))
		f.origin.value = "no keys: hunter2"
		f.clock = f.clock.Add(auth.KeysMaxAge)
		require.True(t, f.verifies(f.old))
		require.NotContains(t, f.log.String(), "hunter2")
	})
}

// A verifierFixture is a Verifier with its table and its clock.
type verifierFixture struct {
	t            *testing.T
	rows         *table
	clock        time.Time
	verifier     *auth.Verifier
	older, newer auth.SigningKey
}

// newVerifierFixture returns a verifierFixture whose table has the key older.
func newVerifierFixture(t *testing.T) *verifierFixture {
	t.Helper()
	t.Parallel()
	f := &verifierFixture{t: t, clock: now, older: signingKey(t, oldPrivate), newer: signingKey(t, newPrivate)}
	f.rows = &table{origin[[]promise.SigningKey]{value: []promise.SigningKey{f.older.Public()}}}
	f.verifier = auth.NewVerifier(f.rows, auth.Always(auth.VerificationKeys{}), func() time.Time { return f.clock }, slog.New(slog.DiscardHandler))
	return f
}

func (f *verifierFixture) verify(s string) error {
	_, err := f.verifier.Verify(f.t.Context(), s, now)
	return err
}

func TestAnUnknownKidReadsTheKeysAgain(t *testing.T) {
	t.Parallel()
	t.Run("keys are read when the first token is verified", func(t *testing.T) {
		f := newVerifierFixture(t)
		require.Zero(t, f.rows.reads)
		require.NoError(t, f.verify(sign(t, f.older, validToken)))
		require.Equal(t, 1, f.rows.reads)
	})
	t.Run("a new key verifies after KeysRefreshInterval", func(t *testing.T) {
		f := newVerifierFixture(t)
		require.NoError(t, f.verify(sign(t, f.older, validToken)))
		f.rows.value = append(f.rows.value, f.newer.Public())
		f.clock = f.clock.Add(auth.KeysRefreshInterval)
		require.NoError(t, f.verify(sign(t, f.newer, validToken)))
		require.Equal(t, 2, f.rows.reads)
	})
	t.Run("invented kids cause at most one read per KeysRefreshInterval", func(t *testing.T) {
		f := newVerifierFixture(t)
		require.NoError(t, f.verify(sign(t, f.older, validToken)))
		f.clock = f.clock.Add(auth.KeysRefreshInterval)
		for range 100 {
			require.ErrorIs(t, f.verify(sign(t, auth.NewSigningKey(), validToken)), auth.ErrTokenRefused)
		}
		require.Equal(t, 2, f.rows.reads)
		require.NoError(t, f.verify(sign(t, f.older, validToken)))
	})
	for _, kid := range []string{"old", "", "ed25519:", "ed25519:0123456789ABCDEF", "ed25519:0123456789abcdef0", "ed25519:../../etc/passwd"} {
		t.Run("a kid that no key can have causes no read: "+kid, func(t *testing.T) {
			f := newVerifierFixture(t)
			require.NoError(t, f.verify(sign(t, f.older, validToken)))
			f.clock = f.clock.Add(auth.KeysRefreshInterval)
			require.ErrorIs(t, f.verify(forgeSigned(`{"alg":"EdDSA","kid":"`+kid+`","typ":"JWT"}`, payload, oldPrivate)), auth.ErrTokenRefused)
			require.Equal(t, 1, f.rows.reads)
		})
	}
	t.Run("while keys cannot be read, an unknown kid is an error and no refusal", func(t *testing.T) {
		f := newVerifierFixture(t)
		require.NoError(t, f.verify(sign(t, f.older, validToken)))
		f.clock = f.clock.Add(auth.KeysRefreshInterval)
		f.rows.err = errors.New("unavailable")
		err := f.verify(sign(t, auth.NewSigningKey(), validToken))
		require.ErrorIs(t, err, f.rows.err)
		require.NotErrorIs(t, err, auth.ErrTokenRefused)
		require.NoError(t, f.verify(sign(t, f.older, validToken)))
	})
	t.Run("a revoked key is refused after KeysMaxAge", func(t *testing.T) {
		f := newVerifierFixture(t)
		require.NoError(t, f.verify(sign(t, f.older, validToken)))
		f.rows.value = []promise.SigningKey{f.newer.Public()}
		f.clock = f.clock.Add(auth.KeysMaxAge)
		require.ErrorIs(t, f.verify(sign(t, f.older, validToken)), auth.ErrTokenRefused)
	})
}

func TestLegacyTokens(t *testing.T) {
	t.Parallel()
	key := signingKey(t, oldPrivate)
	legacy := forge(header, payload, sha256.New, oldSecret)
	secrets := parse(t, entry("old", oldSecret))
	unavailable := errors.New("unavailable")
	withoutSecrets := auth.NewVerifier(&table{origin[[]promise.SigningKey]{value: []promise.SigningKey{legacyRow, key.Public()}}},
		func(context.Context) (auth.VerificationKeys, error) { return auth.VerificationKeys{}, unavailable }, time.Now, slog.New(slog.DiscardHandler))
	t.Run("valid while the table has the legacy row", func(t *testing.T) {
		_, err := newVerifier(t, secrets, key.Public(), legacyRow).Verify(t.Context(), legacy, now)
		require.NoError(t, err)
	})
	t.Run("refused without the legacy row", func(t *testing.T) {
		_, err := newVerifier(t, secrets, key.Public()).Verify(t.Context(), legacy, now)
		require.ErrorIs(t, err, auth.ErrTokenRefused)
	})
	t.Run("an error while their secrets cannot be read", func(t *testing.T) {
		_, err := withoutSecrets.Verify(t.Context(), legacy, now)
		require.ErrorIs(t, err, unavailable)
		require.NotErrorIs(t, err, auth.ErrTokenRefused)
	})
	t.Run("other tokens do not need their secrets", func(t *testing.T) {
		_, err := withoutSecrets.Verify(t.Context(), sign(t, key, validToken), now)
		require.NoError(t, err)
	})
}

// A key signs only once its public half has been read from the table that verifiers read.
func TestSigning(t *testing.T) {
	t.Parallel()
	// set returns a fixture whose table is empty, the origin of its signing key, and its Source.
	set := func(t *testing.T) (*verifierFixture, *origin[auth.SigningKey], auth.Source[auth.SigningKey]) {
		f := newVerifierFixture(t)
		f.rows.value = nil
		private := &origin[auth.SigningKey]{value: f.older}
		cached := auth.NewCached("signing key", private.read, func() time.Time { return f.clock }, slog.New(slog.DiscardHandler))
		return f, private, f.verifier.Signing(cached)
	}
	requireKey := func(t *testing.T, want auth.SigningKey, signing auth.Source[auth.SigningKey]) {
		t.Helper()
		key, err := signing(t.Context())
		require.NoError(t, err)
		require.Equal(t, want.Public(), key.Public())
	}
	t.Run("fails without the public half, and names it", func(t *testing.T) {
		f, _, signing := set(t)
		_, err := signing(t.Context())
		require.ErrorContains(t, err, f.older.Public().KID)
		require.ErrorContains(t, err, "run migrate")
	})
	t.Run("signs after the public half was added", func(t *testing.T) {
		f, _, signing := set(t)
		_, err := signing(t.Context())
		require.Error(t, err)
		f.rows.value = []promise.SigningKey{f.older.Public()}
		f.clock = f.clock.Add(auth.KeysRefreshInterval)
		requireKey(t, f.older, signing)
	})
	t.Run("a rotated key signs after KeysMaxAge", func(t *testing.T) {
		f, private, signing := set(t)
		f.rows.value = []promise.SigningKey{f.older.Public()}
		requireKey(t, f.older, signing)
		reads := private.reads
		f.rows.value, private.value = append(f.rows.value, f.newer.Public()), f.newer
		f.clock = f.clock.Add(auth.KeysMaxAge - time.Second)
		requireKey(t, f.older, signing)
		require.Equal(t, reads, private.reads)
		f.clock = f.clock.Add(time.Second)
		requireKey(t, f.newer, signing)
	})
	t.Run("a revoked key does not sign, and its successor is read at once", func(t *testing.T) {
		f, private, signing := set(t)
		f.rows.value = []promise.SigningKey{f.newer.Public()}
		_, err := signing(t.Context())
		require.Error(t, err)
		private.value = f.newer
		f.clock = f.clock.Add(auth.KeysRefreshInterval)
		requireKey(t, f.newer, signing)
	})
	t.Run("fails once the key is older than KeysMaxStale", func(t *testing.T) {
		f, private, signing := set(t)
		f.rows.value = []promise.SigningKey{f.older.Public()}
		requireKey(t, f.older, signing)
		private.err = errors.New("unavailable")
		f.clock = f.clock.Add(auth.KeysMaxStale)
		_, err := signing(t.Context())
		require.ErrorIs(t, err, private.err)
	})
}

func TestUnavailableKeysAreAnErrorAndNoRefusal(t *testing.T) {
	t.Parallel()
	rows := &table{origin[[]promise.SigningKey]{err: errors.New("unavailable")}}
	w := newFixture(t)
	verifier := auth.NewVerifier(rows, auth.Always(auth.VerificationKeys{}), time.Now, slog.New(slog.DiscardHandler))
	w.Authorizer = auth.NewAuthorizer(w.store, verifier, time.Now, slog.New(slog.DiscardHandler))
	for range 2 {
		_, ok, err := w.Authorize(t.Context(), sign(t, w.key, validToken))
		require.ErrorIs(t, err, rows.err)
		require.False(t, ok)
	}
	require.Equal(t, 1, rows.reads)
}

// A legacy secret may have no kid: 64 letters and digits, as Secrets Manager generates them.
func TestLegacySecretWithoutAKid(t *testing.T) {
	t.Parallel()
	made := "0aZ1bY2cX3dW4eV5fU6gT7hS8iR9jQ0kP1lO2mN3nM4oL5pK6qJ7rI8sH9tG0uF1"
	require.Len(t, made, 64)
	secret, err := raw.DecodeString(made)
	require.NoError(t, err)
	token := forge(`{"alg":"HS256","kid":"5e59e20a","typ":"JWT"}`, payload, sha256.New, secret)
	_, err = parse(t, entry("new", newSecret), made).Verify(token, now)
	require.NoError(t, err)
	_, err = parse(t, raw.EncodeToString(newSecret)).Verify(token, now)
	require.Error(t, err)
	for name, twice := range map[string]string{"twice": made + "," + made, "once more with a kid": made + ",k:" + made} {
		t.Run("refused: "+name, func(t *testing.T) {
			_, err := auth.ParseLegacySecrets(twice)
			require.Error(t, err)
		})
	}
}
