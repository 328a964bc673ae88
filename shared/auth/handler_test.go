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

// failingStore is a database that is away.
type failingStore struct{}

func (failingStore) FindAPIKey(context.Context, []byte) (promise.APIKey, error) {
	return promise.APIKey{}, errors.New("away")
}
func (failingStore) TokenActive(context.Context, string, uuid.UUID, uuid.UUID, *time.Time) (bool, error) {
	return false, errors.New("away")
}

func (failingStore) ListSigningKeys(context.Context) ([]promise.SigningKey, error) {
	return nil, errors.New("away")
}

// authorize asks as API Gateway does, and returns the verdict; the token of a URL, as settle-callback does.
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

// The authorizer on a real database: keys and tokens, and what becomes of them.
func TestAuthorizerOnADatabase(t *testing.T) {
	t.Parallel()
	db := dbtest.New(t)
	db.Tenant(t, "acme")
	repo := repository.New(db.Pool)
	tokens := auth.NewSigningKey()
	db.Exec(t, "INSERT INTO signing_key (kid, public_key) VALUES ($1, $2)", tokens.Public().KID, tokens.Public().PublicKey)
	var log strings.Builder
	fresh := func() *auth.Authorizer { // as another process is: it remembers nothing
		log := slog.New(slog.NewTextHandler(&log, nil))
		return auth.NewAuthorizer(repo, auth.NewVerifier(repo, auth.Always(auth.VerificationKeys{}), time.Now, log), time.Now, log)
	}
	secret := auth.NewAPIKey()
	k, err := repo.CreateAPIKey(t.Context(), promise.APIKey{
		Tenant: "acme", Name: "n", Hash: auth.HashAPIKey(secret), Scopes: []promise.Scope{promise.ScopeSettle, promise.ScopeRead},
	})
	require.NoError(t, err)
	ok, texts := authorize(t, fresh(), "Bearer "+secret, true)
	require.True(t, ok)
	require.Equal(t, map[string]string{"kind": "key", "id": k.ID.String(), "tenant": "acme", "scopes": "settle read"}, texts)
	require.Equal(t, promise.Principal{
		By: promise.By{Kind: promise.KindAPIKey, ID: k.ID.String()}, Tenant: "acme", Scopes: k.Scopes,
	}, promise.ParsePrincipal(texts, time.Now()))

	made, err := repo.Create(t.Context(), "acme", promise.Draft{WorkflowExecutionID: uuid.New(), Name: "n"})
	require.NoError(t, err)
	token := auth.Token{
		ID: uuid.New(), Tenant: "acme", PromiseID: made.Promise.ID, Verbs: []promise.Verb{promise.VerbResolve}, APIKeyID: k.ID,
		ExpiresAt: time.Now().Add(time.Hour).Truncate(time.Second),
	}
	signed, err := tokens.Sign(token, time.Now())
	require.NoError(t, err)
	for _, inHeader := range []bool{true, false} {
		source := signed
		if inHeader {
			source = "bearer  " + signed
		}
		ok, texts = authorize(t, fresh(), source, inHeader)
		require.True(t, ok)
		p := promise.ParsePrincipal(texts, time.Now())
		require.True(t, token.ExpiresAt.Equal(p.ExpiresAt))
		p.ExpiresAt = time.Time{}
		require.Equal(t, promise.Principal{
			By: promise.By{Kind: promise.KindToken, ID: token.ID.String()}, Tenant: "acme", PromiseID: token.PromiseID, Verbs: token.Verbs,
		}, p)
		require.Equal(t, promise.KindAnonymous, promise.ParsePrincipal(texts, token.ExpiresAt).Kind, "however long the answer is kept")
	}
	for _, c := range []struct {
		source   string
		inHeader bool
	}{
		{secret, false}, {"Bearer " + secret, false}, {"Bearer " + signed, false}, {secret, true}, {signed, true}, {"Basic " + secret, true}, {"Bearer" + secret, true}, {"Bearer " + secret + " ", true},
		{"Bearer " + secret + ",Bearer " + secret, true}, {"Bearer " + auth.NewAPIKey(), true}, {"Bearer ", true}, {"", true}, {"Bearer " + signed + "x", true},
	} {
		ok, _ := authorize(t, fresh(), c.source, c.inHeader)
		require.False(t, ok, c.source)
	}
	for _, payload := range []string{``, `{}`, `[]`, `{"identitySource":"x"}`, `{"identitySource":[]}`, `{"identitySource":["a","b"]}`, `{"identitySource":null}`} {
		out, err := fresh().Invoke(t.Context(), []byte(payload))
		require.NoError(t, err)
		require.JSONEq(t, `{"isAuthorized":false}`, string(out), payload)
	}
	for _, sample := range []string{"authorize.bad-key", "authorize.bad-token"} {
		payload, err := os.ReadFile("../../events/" + sample + ".json")
		require.NoError(t, err)
		out, err := fresh().Invoke(t.Context(), payload)
		require.NoError(t, err)
		require.JSONEq(t, `{"isAuthorized":false}`, string(out), sample)
	}

	_, err = repo.SuspendTenant(t.Context(), "acme", true)
	require.NoError(t, err)
	ok, _ = authorize(t, fresh(), "Bearer "+secret, true)
	require.False(t, ok)
	ok, _ = authorize(t, fresh(), signed, false)
	require.False(t, ok)
	_, err = repo.SuspendTenant(t.Context(), "acme", false)
	require.NoError(t, err)
	ok, _ = authorize(t, fresh(), "Bearer "+secret, true)
	require.True(t, ok)
	_, _, err = repo.RevokeAPIKey(t.Context(), "acme", k.ID, false)
	require.NoError(t, err)
	ok, _ = authorize(t, fresh(), "Bearer "+secret, true)
	require.False(t, ok)
	ok, _ = authorize(t, fresh(), signed, false)
	require.True(t, ok, "its tokens stay")
	_, _, err = repo.RevokeAPIKey(t.Context(), "acme", k.ID, true)
	require.NoError(t, err)
	ok, _ = authorize(t, fresh(), signed, false)
	require.False(t, ok, "it has leaked")
	token.APIKeyID = uuid.Nil
	signed, err = tokens.Sign(token, time.Now())
	require.NoError(t, err)
	ok, _ = authorize(t, fresh(), signed, false)
	require.True(t, ok, "no key asked for it")
	revoked, err := repo.RevokeTokens(t.Context(), "acme", promise.ByID(token.PromiseID))
	require.NoError(t, err)
	ok, _ = authorize(t, fresh(), signed, false)
	require.False(t, ok)
	token.RevokedAt = &revoked.At
	signed, err = tokens.Sign(token, time.Now())
	require.NoError(t, err)
	ok, _ = authorize(t, fresh(), signed, false)
	require.True(t, ok, "it was issued after that, in the same second")
	planted, err := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims{"exp": "PLANTED"}).SignedString([]byte("k"))
	require.NoError(t, err)
	ok, _ = authorize(t, fresh(), planted, false)
	require.False(t, ok)
	require.NotContains(t, log.String(), "PLANTED")
	require.NotContains(t, log.String(), secret)
	require.NotContains(t, log.String(), signed)
}

// A database that is away is nobody's 403 and nobody's 500: the operation is left to say 503.
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
