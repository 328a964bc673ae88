package auth_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"hash"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/auth"
	"github.com/flovyn/promises/shared/promise"
)

const (
	header  = `{"alg":"HS256","kid":"old","typ":"JWT"}`
	payload = `{"iss":"promises","aud":"promise","sub":"7d9f1f3a-3c1e-4e5b-8a57-0c2f6f1f4a11","ten":"acme",` +
		`"vrb":["resolve","reject"],"iat":1772366400,"exp":1772370000,"jti":"0a000000-0000-4000-8000-000000000001"}`
)

var (
	now        = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	oldSecret  = bytes.Repeat([]byte("o"), 32)
	newSecret  = bytes.Repeat([]byte("n"), 48)
	oldPrivate = ed25519.NewKeyFromSeed(oldSecret)
	newPrivate = ed25519.NewKeyFromSeed(newSecret[:32])
	raw        = base64.RawURLEncoding

	// validToken is the Token of payload.
	validToken = auth.Token{
		ID: uuid.MustParse("0a000000-0000-4000-8000-000000000001"), Tenant: "acme",
		PromiseID: uuid.MustParse("7d9f1f3a-3c1e-4e5b-8a57-0c2f6f1f4a11"),
		Verbs:     []promise.Verb{promise.VerbResolve, promise.VerbReject}, ExpiresAt: now.Add(time.Hour),
	}

	// legacyRow makes the tokens of TOKEN_KEYS valid.
	legacyRow = promise.SigningKey{KID: promise.LegacyKID}
)

// entry returns an entry of TOKEN_KEYS.
func entry(kid string, secret []byte) string { return kid + ":" + raw.EncodeToString(secret) }

// forge returns a token of any header and payload, with an HMAC of any hash.
func forge(header, payload string, h func() hash.Hash, secret []byte) string {
	text := raw.EncodeToString([]byte(header)) + "." + raw.EncodeToString([]byte(payload))
	mac := hmac.New(h, secret)
	mac.Write([]byte(text))
	return text + "." + raw.EncodeToString(mac.Sum(nil))
}

// forgeSigned returns a token of any header and payload, signed with Ed25519.
func forgeSigned(header, payload string, private ed25519.PrivateKey) string {
	text := raw.EncodeToString([]byte(header)) + "." + raw.EncodeToString([]byte(payload))
	return text + "." + raw.EncodeToString(ed25519.Sign(private, []byte(text)))
}

// inBubble runs f in parallel to other tests, with a fixture and a fake clock.
func inBubble(t *testing.T, f func(t *testing.T, w *fixture)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, func(t *testing.T) { f(t, newFixture(t)) })
}

// kid returns the kid of a key, computed as the database's CHECK computes it.
func kid(private ed25519.PrivateKey) string {
	sum := sha256.Sum256(private.Public().(ed25519.PublicKey))
	return "ed25519:" + hex.EncodeToString(sum[:8])
}

// A kind is one of the two kinds of tokens, with two keys, "old" and "new".
type kind struct {
	header string // of "old"
	keys   auth.VerificationKeys
	forge  func(header, payload string) string // with "old"
	ours   func(header string) string          // translates an HMAC header to this kind
}

func kinds(t testing.TB) map[string]kind {
	t.Helper()
	signed := strings.NewReplacer(`"HS256"`, `"EdDSA"`, `"old"`, strconv.Quote(kid(oldPrivate)), `"new"`, strconv.Quote(kid(newPrivate)),
		`"unknown"`, `"ed25519:0123456789abcdef"`)
	return map[string]kind{
		"Ed25519": {signed.Replace(header), public(t, signingKey(t, oldPrivate), signingKey(t, newPrivate)), func(header, payload string) string {
			return forgeSigned(header, payload, oldPrivate)
		}, signed.Replace},
		"HMAC": {header, parse(t, entry("old", oldSecret), entry("new", newSecret)), func(header, payload string) string {
			return forge(header, payload, sha256.New, oldSecret)
		}, func(header string) string { return header }},
	}
}

// newVerifier returns a Verifier that reads the rows once, because its clock stands still.
func newVerifier(t testing.TB, legacy auth.VerificationKeys, rows ...promise.SigningKey) *auth.Verifier {
	t.Helper()
	return auth.NewVerifier(&table{origin[[]promise.SigningKey]{value: rows}}, auth.Always(legacy), func() time.Time { return now }, slog.New(slog.DiscardHandler))
}

// An origin is a place that keys are read from. Its value can change, and a read can fail.
type origin[T any] struct {
	mu    sync.Mutex
	value T
	err   error
	reads int
}

func (o *origin[T]) read(ctx context.Context) (T, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.reads++
	return o.value, errors.Join(o.err, ctx.Err())
}

func parse(t testing.TB, entries ...string) auth.VerificationKeys {
	t.Helper()
	keys, err := auth.ParseLegacySecrets(strings.Join(entries, ","))
	require.NoError(t, err)
	return keys
}

func public(t testing.TB, signing ...auth.SigningKey) auth.VerificationKeys {
	t.Helper()
	var rows []promise.SigningKey
	for _, key := range signing {
		rows = append(rows, key.Public())
	}
	keys, err := auth.ParsePublicKeys(rows)
	require.NoError(t, err)
	return keys
}

// requireRefused checks that the token is refused, and that the error does not quote it.
func requireRefused(t testing.TB, keys auth.VerificationKeys, token string, what ...any) {
	t.Helper()
	got, err := keys.Verify(token, now)
	require.ErrorIs(t, err, auth.ErrTokenRefused, what...)
	require.Zero(t, got)
	for part := range strings.SplitSeq(token, ".") {
		if len(part) > 8 {
			require.NotContains(t, err.Error(), part, what...)
		}
	}
}

func sign(t testing.TB, key auth.SigningKey, token auth.Token) string {
	t.Helper()
	s, err := key.Sign(token, now)
	require.NoError(t, err)
	return s
}

func signingKey(t testing.TB, private ed25519.PrivateKey) auth.SigningKey {
	t.Helper()
	key, err := auth.ParseSigningKey("ed25519-private:" + raw.EncodeToString(private.Seed()))
	require.NoError(t, err)
	return key
}

// A store is a Store in memory that counts look-ups.
type store struct {
	mu        sync.Mutex
	apiKeys   map[string]promise.APIKey // by hash
	tenants   map[string]bool           // whether the tenant is active
	revoked   map[uuid.UUID]bool        // API keys whose tokens are revoked
	revokedAt *time.Time                // the last revocation of the promise's tokens
	err       error
	lookUps   int
	takes     time.Duration // per look-up
}

func (s *store) lookUp(ctx context.Context) error {
	s.mu.Lock()
	s.lookUps++
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
	if err := s.lookUp(ctx); err != nil {
		return promise.APIKey{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	k, ok := s.apiKeys[string(hash)]
	if !ok {
		return k, promise.ErrNotFound
	}
	return k, nil
}

func (s *store) TokenActive(ctx context.Context, slug string, promiseID, keyID uuid.UUID, revokedAt *time.Time) (bool, error) {
	if err := s.lookUp(ctx); err != nil {
		return false, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	active, ok := s.tenants[slug]
	if !ok {
		return false, promise.ErrNotFound
	}
	same := s.revokedAt == nil && revokedAt == nil || s.revokedAt != nil && revokedAt != nil && s.revokedAt.Equal(*revokedAt)
	return active && promiseID == validToken.PromiseID && same && !s.revoked[keyID], nil
}

// put stores an API key of "acme", with the given change, and returns its secret.
func (s *store) put(change func(*promise.APIKey)) string {
	secret := auth.NewAPIKey()
	k := promise.APIKey{
		ID: uuid.New(), Tenant: "acme", Scopes: []promise.Scope{promise.ScopeSettle}, Hash: auth.HashAPIKey(secret),
	}
	if change != nil {
		change(&k)
	}
	s.apiKeys[string(auth.HashAPIKey(secret))] = k
	return secret
}

func (s *store) change(secret string, change func(*promise.APIKey)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	k := s.apiKeys[string(auth.HashAPIKey(secret))]
	change(&k)
	s.apiKeys[string(auth.HashAPIKey(secret))] = k
}

// A table is the table signing_key of a database.
type table struct{ origin[[]promise.SigningKey] }

func (t *table) ListSigningKeys(ctx context.Context) ([]promise.SigningKey, error) {
	return t.read(ctx)
}

// A fixture is an Authorizer with its store, its signing key and its log. The tenant "acme" is active, "closed" is suspended.
type fixture struct {
	*auth.Authorizer
	t     testing.TB
	store *store
	key   auth.SigningKey
	log   bytes.Buffer
	skew  time.Duration // of the clock that the authorizer reads
}

func newFixture(t testing.TB) *fixture {
	t.Helper()
	w := &fixture{
		t: t, store: &store{apiKeys: map[string]promise.APIKey{}, tenants: map[string]bool{"acme": true, "closed": false}, revoked: map[uuid.UUID]bool{}},
		key: signingKey(t, oldPrivate),
	}
	w.Authorizer = auth.NewAuthorizer(w.store, newVerifier(t, auth.VerificationKeys{}, w.key.Public()), func() time.Time { return time.Now().Add(w.skew) },
		slog.New(slog.NewTextHandler(&w.log, nil)))
	return w
}

// authorize checks that the principal fits ok, and that the log does not contain the credential.
func (w *fixture) authorize(credential string) (promise.Principal, bool) {
	w.t.Helper()
	p, ok, err := w.Authorize(w.t.Context(), credential)
	require.NoError(w.t, err)
	require.Equal(w.t, ok, p.Kind == promise.KindAPIKey || p.Kind == promise.KindToken)
	if !ok {
		require.Equal(w.t, promise.Principal{By: promise.By{Kind: promise.KindAnonymous}, ExpiresAt: p.ExpiresAt}, p)
		require.False(w.t, p.ExpiresAt.After(time.Now().Add(w.skew)), "only an expired key has an ExpiresAt")
	}
	if len(credential) > 12 {
		require.NotContains(w.t, w.log.String(), credential[8:])
	}
	return p, ok
}

// requireAuthorized checks the answer, and the number of look-ups that it took.
func (w *fixture) requireAuthorized(ok bool, lookUps int, credential string, what ...any) {
	w.t.Helper()
	w.store.lookUps = 0
	_, got := w.authorize(credential)
	require.Equal(w.t, ok, got, what...)
	require.Equal(w.t, lookUps, w.store.lookUps, "look-ups")
}

// token signs validToken for another tenant and lifetime.
func (w *fixture) token(tenant string, ttl time.Duration) string {
	t := validToken
	t.Tenant = tenant
	return w.sign(t, ttl)
}

func (w *fixture) sign(t auth.Token, ttl time.Duration) string {
	t.ExpiresAt = time.Now().Add(ttl)
	s, err := w.key.Sign(t, time.Now())
	require.NoError(w.t, err)
	return s
}
