package auth_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/auth"
	"github.com/flovyn/promises/shared/promise"
)

// legacyRow says that tokens of TOKEN_KEYS are valid.
var legacyRow = promise.SigningKey{KID: promise.LegacyKID}

// kept is what keys are read from: it can be changed, and be unavailable.
type kept[T any] struct {
	mu    sync.Mutex
	value T
	err   error
	reads int
}

func (k *kept[T]) read(ctx context.Context) (T, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.reads++
	return k.value, errors.Join(k.err, ctx.Err())
}

// table is the signing_key of a database.
type table struct{ kept[[]promise.SigningKey] }

func (t *table) ListSigningKeys(ctx context.Context) ([]promise.SigningKey, error) {
	return t.read(ctx)
}

// newVerifier returns a Verifier that reads the rows once: its clock stands still.
func newVerifier(t testing.TB, legacy auth.VerificationKeys, rows ...promise.SigningKey) *auth.Verifier {
	t.Helper()
	return auth.NewVerifier(&table{kept[[]promise.SigningKey]{value: rows}}, auth.Always(legacy), func() time.Time { return now }, slog.New(slog.DiscardHandler))
}

// Keys change within KeysMaxAge, and serve on for KeysMaxStale while they cannot be read.
func TestCached(t *testing.T) {
	t.Parallel()
	clock := now
	var log bytes.Buffer
	s := &kept[string]{value: entry("old", oldSecret)}
	read := func(ctx context.Context) (auth.VerificationKeys, error) {
		text, err := s.read(ctx)
		if err != nil {
			return auth.VerificationKeys{}, err
		}
		return auth.ParseLegacySecrets(text)
	}
	keys := auth.NewCached("keys", read, func() time.Time { return clock }, slog.New(slog.NewTextHandler(&log, nil)))
	verifies := func(token string) bool {
		t.Helper()
		k, err := keys.Get(t.Context())
		require.NoError(t, err)
		_, err = k.Verify(token, now)
		return err == nil
	}
	old := forge(header, payload, sha256.New, oldSecret)
	made := forge(strings.Replace(header, "old", "new", 1), payload, sha256.New, newSecret)
	require.Zero(t, s.reads, "nothing is read before it is needed")

	gone, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := keys.Get(gone)
	require.NoError(t, err, "what others wait for does not end with the call that began it")
	require.True(t, verifies(old))
	require.Equal(t, 1, s.reads)

	s.value = entry("old", oldSecret) + "," + entry("new", newSecret)
	clock = clock.Add(auth.KeysMaxAge - time.Second)
	require.False(t, verifies(made))
	clock = clock.Add(time.Second)
	require.True(t, verifies(made))
	require.True(t, verifies(old))
	require.Equal(t, 2, s.reads)

	s.value = entry("new", newSecret)
	clock = clock.Add(auth.KeysMaxAge)
	require.False(t, verifies(old), "a key that was taken out is dead")
	require.Equal(t, 3, s.reads)

	s.err = errors.New("away")
	clock = clock.Add(auth.KeysMaxAge)
	for range 3 {
		require.True(t, verifies(made))
	}
	require.Equal(t, 4, s.reads, "it is not asked at each call")
	require.Contains(t, log.String(), "away")
	_, err = keys.Refresh(t.Context())
	require.ErrorIs(t, err, s.err, "old keys are no answer to what new ones would say")
	clock = clock.Add(auth.KeysMaxStale - auth.KeysMaxAge)
	_, err = keys.Get(t.Context())
	require.ErrorIs(t, err, s.err)
	s.err = nil
	clock = clock.Add(5 * time.Second)
	require.True(t, verifies(made))

	s.value = "no keys: hunter2"
	clock = clock.Add(auth.KeysMaxAge)
	require.True(t, verifies(made), "what is no list of keys replaces none")
	require.NotContains(t, log.String(), "hunter2")
}

// A fresh key verifies at once; made-up kids make a process read no more than once in KeysRefreshInterval.
func TestAnUnknownKidReadsTheKeysAgain(t *testing.T) {
	t.Parallel()
	clock := now
	older, newer := signingKey(t, oldPrivate), signingKey(t, newPrivate)
	rows := &table{kept[[]promise.SigningKey]{value: []promise.SigningKey{older.Public()}}}
	verifier := auth.NewVerifier(rows, auth.Always(auth.VerificationKeys{}), func() time.Time { return clock }, slog.New(slog.DiscardHandler))
	verify := func(s string) error {
		_, err := verifier.Verify(t.Context(), s, now)
		return err
	}
	require.Zero(t, rows.reads)
	require.NoError(t, verify(sign(t, older, good)))
	require.Equal(t, 1, rows.reads)

	rows.value = append(rows.value, newer.Public())
	clock = clock.Add(auth.KeysRefreshInterval)
	require.NoError(t, verify(sign(t, newer, good)))
	require.Equal(t, 2, rows.reads)

	clock = clock.Add(auth.KeysRefreshInterval)
	for range 100 {
		require.ErrorIs(t, verify(sign(t, auth.NewSigningKey(), good)), auth.ErrTokenRefused)
	}
	require.Equal(t, 3, rows.reads)
	require.NoError(t, verify(sign(t, older, good)))
	clock = clock.Add(auth.KeysRefreshInterval)
	for _, kid := range []string{"old", "", "ed25519:", "ed25519:0123456789ABCDEF", "ed25519:0123456789abcdef0", "ed25519:../../etc/passwd"} {
		require.ErrorIs(t, verify(forgeSigned(`{"alg":"EdDSA","kid":"`+kid+`","typ":"JWT"}`, payload, oldPrivate)), auth.ErrTokenRefused)
	}
	require.Equal(t, 3, rows.reads, "no key can have these")

	rows.err = errors.New("away")
	err := verify(sign(t, auth.NewSigningKey(), good))
	require.ErrorIs(t, err, rows.err, "it may be a fresh key: nothing was found out")
	require.NotErrorIs(t, err, auth.ErrTokenRefused)
	require.NoError(t, verify(sign(t, older, good)))
	rows.err, rows.value = nil, rows.value[1:]
	clock = clock.Add(auth.KeysMaxAge)
	require.ErrorIs(t, verify(sign(t, older, good)), auth.ErrTokenRefused, "a key that was revoked")
}

// Legacy tokens are valid while the table says so, and their secrets are not needed for other tokens.
func TestLegacyTokens(t *testing.T) {
	t.Parallel()
	key := signingKey(t, oldPrivate)
	legacy := forge(header, payload, sha256.New, oldSecret)
	secrets := parse(t, entry("old", oldSecret))
	_, err := newVerifier(t, secrets, key.Public(), legacyRow).Verify(t.Context(), legacy, now)
	require.NoError(t, err)
	_, err = newVerifier(t, secrets, key.Public()).Verify(t.Context(), legacy, now)
	require.ErrorIs(t, err, auth.ErrTokenRefused, "their time has passed, or there were none")

	away := errors.New("away")
	verifier := auth.NewVerifier(&table{kept[[]promise.SigningKey]{value: []promise.SigningKey{legacyRow, key.Public()}}},
		func(context.Context) (auth.VerificationKeys, error) { return auth.VerificationKeys{}, away }, time.Now, slog.New(slog.DiscardHandler))
	_, err = verifier.Verify(t.Context(), sign(t, key, good), now)
	require.NoError(t, err)
	_, err = verifier.Verify(t.Context(), legacy, now)
	require.ErrorIs(t, err, away)
	require.NotErrorIs(t, err, auth.ErrTokenRefused)
}

// A key signs only once its public half has been read from where verifiers read it.
func TestSigning(t *testing.T) {
	t.Parallel()
	clock := now
	tick := func() time.Time { return clock }
	log := slog.New(slog.DiscardHandler)
	older, newer := signingKey(t, oldPrivate), signingKey(t, newPrivate)
	rows, private := new(table), &kept[auth.SigningKey]{value: older}
	signing := auth.NewVerifier(rows, auth.Always(auth.VerificationKeys{}), tick, log).Signing(auth.NewCached("signing key", private.read, tick, log))
	kid := func() string {
		t.Helper()
		key, err := signing(t.Context())
		require.NoError(t, err)
		return key.Public().KID
	}
	_, err := signing(t.Context())
	require.ErrorContains(t, err, older.Public().KID)
	require.ErrorContains(t, err, "run migrate")
	rows.value = []promise.SigningKey{older.Public()}
	clock = clock.Add(auth.KeysRefreshInterval)
	require.Equal(t, older.Public().KID, kid())

	reads := private.reads
	rows.value, private.value = append(rows.value, newer.Public()), newer // a rotation
	clock = clock.Add(auth.KeysMaxAge - auth.KeysRefreshInterval - time.Second)
	require.Equal(t, older.Public().KID, kid())
	require.Equal(t, reads, private.reads)
	clock = clock.Add(time.Second)
	require.Equal(t, newer.Public().KID, kid())

	revoking := auth.NewSigningKey()
	rows.value, private.value = []promise.SigningKey{revoking.Public()}, revoking
	rows.reads = 0
	verifiers := auth.NewVerifier(rows, auth.Always(auth.VerificationKeys{}), tick, log)
	private.value = newer
	fresh := verifiers.Signing(auth.NewCached("signing key", private.read, tick, log))
	_, err = fresh(t.Context())
	require.Error(t, err, "it is revoked")
	private.value = revoking
	clock = clock.Add(auth.KeysRefreshInterval)
	key, err := fresh(t.Context())
	require.NoError(t, err, "the secret is read again at once")
	require.Equal(t, revoking.Public(), key.Public())

	private.err = errors.New("away")
	clock = clock.Add(auth.KeysMaxStale)
	_, err = fresh(t.Context())
	require.ErrorIs(t, err, private.err)
}

func TestKeysThatAreAway(t *testing.T) {
	t.Parallel()
	rows := &table{kept[[]promise.SigningKey]{err: errors.New("away")}}
	w := newWorld(t)
	verifier := auth.NewVerifier(rows, auth.Always(auth.VerificationKeys{}), time.Now, slog.New(slog.DiscardHandler))
	w.Authorizer = auth.NewAuthorizer(w.store, verifier, time.Now, slog.New(slog.DiscardHandler))
	for range 2 {
		_, ok, err := w.Authorize(t.Context(), sign(t, w.keys, good))
		require.ErrorIs(t, err, rows.err, "nothing was found out")
		require.False(t, ok)
	}
	require.Equal(t, 1, rows.reads)
}

// A legacy secret without a name is a key: 64 letters and digits, such as Secrets Manager makes them.
func TestKeyWithoutAName(t *testing.T) {
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
	for _, twice := range []string{made + "," + made, made + ",k:" + made} {
		_, err := auth.ParseLegacySecrets(twice)
		require.Error(t, err)
	}
}
