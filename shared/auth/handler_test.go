package auth_test

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/auth"
	"github.com/flovyn/promises/shared/dbtest"
	"github.com/flovyn/promises/shared/promise"
	"github.com/flovyn/promises/shared/repository"
)

// A failingStore is a database that is unavailable.
type failingStore struct{}

func (failingStore) FindAPIKey(context.Context, []byte) (promise.APIKey, error) {
	return promise.APIKey{}, errors.New("unavailable")
}
func (failingStore) TokenActive(context.Context, string, uuid.UUID, uuid.UUID, *time.Time) (bool, error) {
	return false, errors.New("unavailable")
}

func (failingStore) ListSigningKeys(context.Context) ([]promise.SigningKey, error) {
	return nil, errors.New("unavailable")
}

// authorize checks a header as API Gateway does, or a token in a URL as settle-callback does, and returns the verdict.
func authorize(t testing.TB, a *auth.Authorizer, source string, inHeader bool) (ok bool, texts map[string]string) {
	t.Helper()
	if !inHeader {
		p, err := a.Identify(t.Context(), source, false)
		require.NoError(t, err)
		if p.Kind == promise.KindAnonymous {
			return false, nil
		}
		return true, p.Texts()
	}
	payload, err := json.Marshal(map[string]any{
		"version": "2.0", "type": "REQUEST", "identitySource": []string{source},
		"routeKey": "POST /api/tenants/{slug}/promises/{identifier}/resolve", "headers": map[string]string{"authorization": "Basic x"},
	})
	require.NoError(t, err)
	out, err := a.Invoke(t.Context(), payload)
	require.NoError(t, err)
	var v struct {
		IsAuthorized bool
		Context      map[string]string
	}
	require.NoError(t, json.Unmarshal(out, &v))
	require.Equal(t, v.IsAuthorized, v.Context != nil, "%s", out)
	return v.IsAuthorized, v.Context
}

// The subtests run in order on one database: the later ones suspend the tenant and revoke the credentials.
func TestAuthorizerOnADatabase(t *testing.T) {
	t.Parallel()
	db := dbtest.New(t)
	db.Tenant(t, "acme")
	repo := repository.New(db.Pool)
	tokens := auth.NewSigningKey()
	db.Exec(t, "INSERT INTO signing_key (kid, public_key) VALUES ($1, $2)", tokens.Public().KID, tokens.Public().PublicKey)
	var log strings.Builder
	// newAuthorizer returns an Authorizer with empty caches.
	newAuthorizer := func() *auth.Authorizer {
		log := slog.New(slog.NewTextHandler(&log, nil))
		return auth.NewAuthorizer(repo, auth.NewVerifier(repo, auth.Always(auth.VerificationKeys{}), time.Now, log), time.Now, log)
	}
	requireAccepted := func(t *testing.T, want bool, source string, inHeader bool) {
		t.Helper()
		ok, _ := authorize(t, newAuthorizer(), source, inHeader)
		require.Equal(t, want, ok)
	}
	sign := func(t *testing.T, token auth.Token) string {
		t.Helper()
		signed, err := tokens.Sign(token, time.Now())
		require.NoError(t, err)
		return signed
	}
	secret := auth.NewAPIKey()
	k, err := repo.CreateAPIKey(t.Context(), promise.APIKey{
		Tenant: "acme", Name: "n", Hash: auth.HashAPIKey(secret), Scopes: []promise.Scope{promise.ScopeSettle, promise.ScopeRead},
	})
	require.NoError(t, err)
	made, err := repo.Create(t.Context(), "acme", promise.Draft{WorkflowExecutionID: uuid.New(), Name: "n"})
	require.NoError(t, err)
	token := auth.Token{
		ID: uuid.New(), Tenant: "acme", PromiseID: made.Promise.ID, Verbs: []promise.Verb{promise.VerbResolve}, APIKeyID: k.ID,
		ExpiresAt: time.Now().Add(time.Hour).Truncate(time.Second),
	}
	signed := sign(t, token)
	tokenWithoutKey := token
	tokenWithoutKey.APIKeyID = uuid.Nil
	signedWithoutKey := sign(t, tokenWithoutKey)

	t.Run("an API key returns its principal", func(t *testing.T) {
		ok, texts := authorize(t, newAuthorizer(), "Bearer "+secret, true)
		require.True(t, ok)
		require.Equal(t, map[string]string{"kind": "key", "id": k.ID.String(), "tenant": "acme", "scopes": "settle read"}, texts)
		require.Equal(t, promise.Principal{
			By: promise.By{Kind: promise.KindAPIKey, ID: k.ID.String()}, Tenant: "acme", Scopes: k.Scopes,
		}, promise.ParsePrincipal(texts, time.Now()))
	})
	for name, c := range map[string]struct {
		source   string
		inHeader bool
	}{"in a header": {"bearer  " + signed, true}, "in a URL": {signed, false}} {
		t.Run("a token returns its principal: "+name, func(t *testing.T) {
			ok, texts := authorize(t, newAuthorizer(), c.source, c.inHeader)
			require.True(t, ok)
			p := promise.ParsePrincipal(texts, time.Now())
			require.True(t, token.ExpiresAt.Equal(p.ExpiresAt))
			p.ExpiresAt = time.Time{}
			require.Equal(t, promise.Principal{
				By: promise.By{Kind: promise.KindToken, ID: token.ID.String()}, Tenant: "acme", PromiseID: token.PromiseID, Verbs: token.Verbs,
			}, p)
			require.Equal(t, promise.KindAnonymous, promise.ParsePrincipal(texts, token.ExpiresAt).Kind, "a cached answer expires with the token")
		})
	}
	for name, c := range map[string]struct {
		source   string
		inHeader bool
	}{
		"an API key in a URL":                 {secret, false},
		"an API key with its scheme in a URL": {"Bearer " + secret, false},
		"a token with its scheme in a URL":    {"Bearer " + signed, false},
		"an API key without a scheme":         {secret, true},
		"a token without a scheme":            {signed, true},
		"another scheme":                      {"Basic " + secret, true},
		"no space after the scheme":           {"Bearer" + secret, true},
		"a space after the API key":           {"Bearer " + secret + " ", true},
		"two credentials":                     {"Bearer " + secret + ",Bearer " + secret, true},
		"an unknown API key":                  {"Bearer " + auth.NewAPIKey(), true},
		"an empty credential":                 {"Bearer ", true},
		"an empty header":                     {"", true},
		"a token and a character":             {"Bearer " + signed + "x", true},
	} {
		t.Run("refused: "+name, func(t *testing.T) { requireAccepted(t, false, c.source, c.inHeader) })
	}
	requireRefusal := func(t *testing.T, payload []byte) {
		t.Helper()
		out, err := newAuthorizer().Invoke(t.Context(), payload)
		require.NoError(t, err)
		require.JSONEq(t, `{"isAuthorized":false}`, string(out))
	}
	for _, payload := range []string{``, `{}`, `[]`, `{"identitySource":"x"}`, `{"identitySource":[]}`, `{"identitySource":["a","b"]}`, `{"identitySource":null}`} {
		t.Run("refused: the payload "+payload, func(t *testing.T) { requireRefusal(t, []byte(payload)) })
	}
	for _, sample := range []string{"authorize.bad-key", "authorize.bad-token"} {
		t.Run("refused: the sample "+sample, func(t *testing.T) {
			payload, err := os.ReadFile("../../events/" + sample + ".json")
			require.NoError(t, err)
			requireRefusal(t, payload)
		})
	}
	t.Run("a suspended tenant's credentials are refused until it is resumed", func(t *testing.T) {
		_, err := repo.SuspendTenant(t.Context(), "acme", true)
		require.NoError(t, err)
		requireAccepted(t, false, "Bearer "+secret, true)
		requireAccepted(t, false, signed, false)
		_, err = repo.SuspendTenant(t.Context(), "acme", false)
		require.NoError(t, err)
		requireAccepted(t, true, "Bearer "+secret, true)
	})
	t.Run("a revoked API key is refused, and its tokens are not", func(t *testing.T) {
		_, _, err := repo.RevokeAPIKey(t.Context(), "acme", k.ID, false)
		require.NoError(t, err)
		requireAccepted(t, false, "Bearer "+secret, true)
		requireAccepted(t, true, signed, false)
	})
	t.Run("an API key revoked with its tokens: they are refused, and other tokens are not", func(t *testing.T) {
		_, _, err := repo.RevokeAPIKey(t.Context(), "acme", k.ID, true)
		require.NoError(t, err)
		requireAccepted(t, false, signed, false)
		requireAccepted(t, true, signedWithoutKey, false)
	})
	t.Run("revoked tokens are refused, and one issued in the same second is not", func(t *testing.T) {
		revoked, err := repo.RevokeTokens(t.Context(), "acme", promise.ByID(token.PromiseID))
		require.NoError(t, err)
		requireAccepted(t, false, signedWithoutKey, false)
		later := tokenWithoutKey
		later.RevokedAt = &revoked.At
		signed := sign(t, later)
		requireAccepted(t, true, signed, false)
		require.NotContains(t, log.String(), signed)
	})
	t.Run("the log contains no part of a credential", func(t *testing.T) {
		planted, err := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims{"exp": "PLANTED"}).SignedString([]byte("k"))
		require.NoError(t, err)
		requireAccepted(t, false, planted, false)
		require.NotContains(t, log.String(), "PLANTED")
		require.NotContains(t, log.String(), secret)
		require.NotContains(t, log.String(), signed)
		require.NotContains(t, log.String(), signedWithoutKey)
	})
}

// Without a database the authorizer lets a call through as unverified, and the operation answers 503.
func TestAuthorizerWithoutADatabase(t *testing.T) {
	t.Parallel()
	log := slog.New(slog.DiscardHandler)
	a := auth.NewAuthorizer(failingStore{}, auth.NewVerifier(failingStore{}, auth.Always(auth.VerificationKeys{}), time.Now, log), time.Now, log)
	ok, texts := authorize(t, a, "Bearer "+auth.NewAPIKey(), true)
	require.True(t, ok)
	require.Equal(t, map[string]string{"kind": "unverified"}, texts)
	p := promise.Principal{By: promise.By{Kind: promise.KindUnverified}}
	err := p.May(promise.Need{Scope: promise.ScopeRead}, "acme", promise.Identifier{})
	require.Equal(t, promise.CodeUnavailable, promise.AsError(err).Code)
	require.Equal(t, promise.KindAnonymous, promise.ParsePrincipal(texts, time.Now()).Kind)
}
