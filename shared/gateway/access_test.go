package gateway_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/gateway"
	"github.com/flovyn/promises/shared/promise"
	"github.com/flovyn/promises/shared/repository"
)

// as makes an event of somebody else than httpEvent's holder of a key; nil is nobody.
func as(t testing.TB, event []byte, texts map[string]string) []byte {
	t.Helper()
	var e map[string]any
	require.NoError(t, json.Unmarshal(event, &e))
	e["requestContext"].(map[string]any)["authorizer"] = map[string]any{"lambda": texts}
	text, err := json.Marshal(e)
	require.NoError(t, err)
	return text
}

func TestPrincipalOfAnEvent(t *testing.T) {
	t.Parallel()
	s := newService(t)
	s.promise(t)
	before := s.snapshot(t)
	event := httpEvent(t, "POST", tenant, "id:"+promiseID, "", `{"value":1}`)
	const tokenID = "5d2f8f0c-9a51-4f43-8f6e-3b1f6f0c7a55"
	key, token := holder(tenant, promise.ScopeSettle).Texts(), promise.Principal{
		By: promise.By{Kind: promise.KindToken, ID: tokenID}, Tenant: tenant, Verbs: []promise.Verb{promise.VerbResolve},
	}.Texts()
	token["promiseId"] = promiseID
	with := func(texts map[string]string, name, value string) map[string]string {
		changed := map[string]string{name: value}
		for n, v := range texts {
			if _, ok := changed[n]; !ok {
				changed[n] = v
			}
		}
		return changed
	}
	for _, c := range []struct {
		texts  map[string]string
		status int
		code   string
	}{
		{nil, 401, "unauthenticated"},
		{map[string]string{}, 401, "unauthenticated"},
		{with(key, "kind", ""), 401, "unauthenticated"},
		{with(key, "kind", "direct"), 401, "unauthenticated"},
		{with(key, "kind", "deadline"), 401, "unauthenticated"},
		{with(key, "kind", "Key"), 401, "unauthenticated"},
		{with(key, "expiresAt", "2020-01-01T00:00:00Z"), 401, "unauthenticated"},
		{with(key, "expiresAt", "never"), 401, "unauthenticated"},
		{with(key, "id", "the CFO, in person"), 401, "unauthenticated"},
		{with(key, "id", strings.Repeat("x", 300)), 401, "unauthenticated"},
		{with(key, "id", ""), 401, "unauthenticated"},
		{with(key, "id", "00000000-0000-0000-0000-000000000000"), 401, "unauthenticated"},
		{with(token, "id", strings.Repeat("x", 300)), 401, "unauthenticated"},
		{with(key, "tenant", "other"), 404, "not_found"},
		{with(key, "tenant", ""), 404, "not_found"},
		{with(key, "scopes", "create read"), 403, "forbidden"},
		{with(key, "scopes", ""), 403, "forbidden"},
		{with(token, "tenant", "other"), 404, "not_found"},
		{with(token, "verbs", "reject"), 403, "forbidden"},
		{with(token, "promiseId", workflowID), 403, "forbidden"},
		{with(token, "promiseId", "all"), 401, "unauthenticated"},
		{with(token, "expiresAt", "2020-01-01T00:00:00Z"), 401, "unauthenticated"},
	} {
		got, err := s.handler(t, "resolve").Invoke(t.Context(), as(t, event, c.texts))
		require.NoError(t, err)
		requireProblem(t, c.status, c.code, decodeResponse(t, got))
	}
	// A slug that is none of the caller's is whatever it has written: it is not logged.
	got, err := s.handler(t, "resolve").Invoke(t.Context(), as(t, httpEvent(t, "POST", "planted", "id:"+promiseID, "", `{"value":1}`), key))
	require.NoError(t, err)
	requireProblem(t, 404, "not_found", decodeResponse(t, got))
	require.NotContains(t, s.log.String(), "planted")
	require.Contains(t, s.log.String(), "tenant=demo")

	// Who may not is told so before anything that is wrong with the call.
	bad := httpEvent(t, "POST", tenant, "nonsense", "x=1", `{`)
	got, err = s.handler(t, "resolve").Invoke(t.Context(), as(t, bad, nil))
	require.NoError(t, err)
	requireProblem(t, 401, "unauthenticated", decodeResponse(t, got))
	got, err = s.handler(t, "resolve").Invoke(t.Context(), as(t, httpEvent(t, "POST", tenant, "key:"+"k", "", `{"value":1}`), token))
	require.NoError(t, err)
	requireProblem(t, 403, "forbidden", decodeResponse(t, got))
	require.Equal(t, before, s.snapshot(t))

	got, err = s.handler(t, "resolve").Invoke(t.Context(), as(t, event, token))
	require.NoError(t, err)
	require.Contains(t, string(got), `\"outcome\":\"settled\"`)
	got, err = s.handler(t, "resolve").Invoke(t.Context(), as(t, event, token))
	require.NoError(t, err)
	require.Contains(t, string(got), `\"outcome\":\"duplicate\"`, "who has settled it is still told so")
	require.Equal(t, map[string]any{"kind": "token", "id": tokenID}, s.answer(t, "get-promise", named+"}")["settledBy"])

	// Another token of the same promise is not told how it was settled, or it could try values until one is a duplicate.
	for _, query := range []string{"", "strict=true"} {
		other := httpEvent(t, "POST", tenant, "id:"+promiseID, query, `{"value":1}`)
		got, err = s.handler(t, "resolve").Invoke(t.Context(), as(t, other, with(token, "id", workflowID)))
		require.NoError(t, err)
		requireProblem(t, 403, "forbidden", decodeResponse(t, got))
		require.NotContains(t, string(got), "duplicate")
	}
}

// Where the authorizer could not look a credential up, the operation does, and answers 503 while it cannot either.
func TestUnverified(t *testing.T) {
	t.Parallel()
	s := newService(t)
	s.promise(t)
	event := httpEvent(t, "POST", tenant, "id:"+promiseID, "", `{"value":1}`)
	event = bytes.Replace(event, []byte(`"headers":{`), []byte(`"headers":{"authorization":"Basic x",`), 1)
	unverified := map[string]string{"kind": "unverified"}
	h := s.handler(t, "resolve")
	h.Authenticate = func(context.Context, string, bool) (promise.Principal, error) {
		return promise.Principal{}, &promise.Error{Code: promise.CodeUnavailable, Detail: "away"}
	}
	got, err := h.Invoke(t.Context(), as(t, event, unverified))
	require.NoError(t, err)
	a := decodeResponse(t, got)
	requireProblem(t, 503, "unavailable", a)
	require.Equal(t, "1", a.Headers["retry-after"])
	h.Authenticate = func(ctx context.Context, _ string, _ bool) (promise.Principal, error) {
		<-ctx.Done()
		return promise.Principal{}, ctx.Err()
	}
	h.Timeout = 10 * time.Millisecond
	got, err = h.Invoke(t.Context(), as(t, event, unverified))
	require.NoError(t, err)
	requireProblem(t, 503, "unavailable", decodeResponse(t, got))
	h.Timeout = 10 * time.Second
	h.Authenticate = func(_ context.Context, source string, inHeader bool) (promise.Principal, error) {
		require.Equal(t, "Basic x", source)
		require.True(t, inHeader)
		return promise.Principal{By: promise.By{Kind: promise.KindAnonymous}}, nil
	}
	got, err = h.Invoke(t.Context(), as(t, event, unverified))
	require.NoError(t, err)
	requireProblem(t, 401, "unauthenticated", decodeResponse(t, got))
	h.Authenticate = func(context.Context, string, bool) (promise.Principal, error) {
		return holder(tenant, promise.ScopeSettle), nil
	}
	got, err = h.Invoke(t.Context(), as(t, event, unverified))
	require.NoError(t, err)
	require.Contains(t, string(got), `\"outcome\":\"settled\"`)
}

func TestTokensOfACreation(t *testing.T) {
	t.Parallel()
	s := newService(t)
	body := `{"workflowExecutionId":"` + workflowID + `","name":"n","tokens":{"verbs":["resolve"],"ttlSeconds":60}}`
	var made struct{ Created, PromiseID, Token, ResolveURL, RejectURL any }
	a := s.post(t, "create-promise", "", "", body)
	require.Equal(t, 201, a.StatusCode, a.Body)
	require.NoError(t, json.Unmarshal([]byte(a.Body), &made))
	token := "token.demo." + made.PromiseID.(string) + ".[resolve].1m0s"
	require.Equal(t, token, made.Token)
	require.Equal(t, "https://api.example.com/api/tenants/demo/callbacks/id:"+made.PromiseID.(string)+"/resolve?token="+
		strings.NewReplacer("[", "%5B", "]", "%5D").Replace(token), made.ResolveURL)
	require.Nil(t, made.RejectURL)
	require.Equal(t, 200, s.post(t, "create-promise", "", "", body).StatusCode, "a repeated call has a token, too")

	// A key that may not read is not told the value of what it creates again, and makes no token that outlives it.
	s.answer(t, "resolve", `{"tenant":"demo","promiseId":"`+made.PromiseID.(string)+`","value":"secret","comment":"secret"}`)
	creator := holder(tenant, promise.ScopeCreate, promise.ScopeSettle)
	creator.ExpiresAt = time.Now().Add(10 * time.Second)
	again, err := s.handler(t, "create-promise").Invoke(t.Context(), as(t, httpEvent(t, "POST", tenant, "", "", body), creator.Texts()))
	require.NoError(t, err)
	require.Equal(t, 200, decodeResponse(t, again).StatusCode)
	require.NotContains(t, string(again), "secret")
	require.NotContains(t, string(again), "1m0s")
	creator.Scopes = promise.Scopes
	again, err = s.handler(t, "create-promise").Invoke(t.Context(), as(t, httpEvent(t, "POST", tenant, "", "", body), creator.Texts()))
	require.NoError(t, err)
	require.Contains(t, string(again), "secret")

	h := s.handler(t, "create-promise")
	h.PublicURL, h.Signer = "", nil
	got, err := h.Invoke(t.Context(), httpEvent(t, "POST", tenant, "", "", body))
	require.NoError(t, err)
	requireProblem(t, 500, "internal", decodeResponse(t, got))
	require.Contains(t, s.log.String(), "SIGNING_KEY is not set")
	before := s.snapshot(t)
	h.Signer = func(context.Context) (gateway.SignToken, error) { return nil, errors.New("the keys are away") }
	got, err = h.Invoke(t.Context(), httpEvent(t, "POST", tenant, "", "", strings.Replace(body, `"name":"`, `"name":"un`, 1)))
	require.NoError(t, err)
	requireProblem(t, 503, "unavailable", decodeResponse(t, got))
	require.Contains(t, s.log.String(), "the keys are away")
	for tokens, code := range map[string]string{
		`null`: "wrong_type", `{}`: "missing_field", `{"verbs":["resolve"]}`: "missing_field", `{"ttlSeconds":1}`: "missing_field",
		`{"verbs":[],"ttlSeconds":1}`: "missing_field", `{"verbs":["cancel"],"ttlSeconds":1}`: "out_of_range",
		`{"verbs":["resolve","resolve"],"ttlSeconds":1}`: "out_of_range", `{"verbs":"resolve","ttlSeconds":1}`: "wrong_type",
		`{"verbs":[1],"ttlSeconds":1}`: "out_of_range", `{"verbs":["resolve"],"ttlSeconds":0}`: "out_of_range",
		`{"verbs":["resolve"],"ttlSeconds":31536001}`: "out_of_range", `{"verbs":["resolve"],"ttlSeconds":1,"x":1}`: "unknown_field",
		`{"verbs":["resolve"],"ttlSeconds":1,"body":"RAW"}`: "out_of_range", `{"verbs":["resolve"],"ttlSeconds":1,"body":true}`: "wrong_type",
	} {
		a := s.post(t, "create-promise", "", "", `{"workflowExecutionId":"`+workflowID+`","name":"m","tokens":`+tokens+`}`)
		field, _, _ := strings.Cut(requireProblem(t, 400, code, a)["field"].(string), ".")
		require.Equal(t, "tokens", field, tokens)
	}
	require.Equal(t, before, s.snapshot(t))
}

func TestManageTenants(t *testing.T) {
	t.Parallel()
	s := newService(t)
	n := byte(0)
	h := &gateway.TenantHandler{
		Store: repository.New(s.db.Pool), Timeout: 10 * time.Second, Log: slog.New(slog.NewTextHandler(s.log, nil)),
		NewAPIKey: func() (string, []byte) { n++; return "prk_secret", append(make([]byte, 31), n) },
	}
	manage := func(payload string) map[string]any {
		t.Helper()
		got, err := h.Invoke(t.Context(), []byte(payload))
		require.NoError(t, err, payload)
		var fields map[string]any
		require.NoError(t, json.Unmarshal(got, &fields))
		return fields
	}
	made := manage(`{"action":"create-tenant","slug":"acme"}`)
	require.Equal(t, true, made["created"])
	again := manage(`{"action":"create-tenant","slug":"acme"}`)
	require.Equal(t, false, again["created"])
	require.Equal(t, made["tenantId"], again["tenantId"])
	require.Len(t, manage(`{"action":"list-tenants"}`)["tenants"], 2)
	require.Empty(t, manage(`{"action":"list-keys","tenant":"acme"}`)["keys"])
	key := manage(`{"action":"create-key","tenant":"acme","name":"checkout","scopes":["settle","read"],"expiresAt":"2100-01-01T00:00:00+01:00"}`)
	require.Equal(t, "prk_secret", key["apiKey"])
	require.Equal(t, "2099-12-31T23:00:00Z", key["expiresAt"])
	other := manage(`{"action":"create-key","tenant":"acme","name":"checkout","scopes":["create"]}`)
	require.NotEqual(t, key["keyId"], other["keyId"])
	id := key["keyId"].(string)
	revoked := manage(`{"action":"revoke-key","tenant":"acme","keyId":"` + id + `","tokens":false}`)
	require.NotContains(t, revoked, "tokensRevokedAt")
	require.Equal(t, revoked, manage(`{"action":"revoke-key","tenant":"acme","keyId":"`+id+`"}`), "once and for ever")
	keys := manage(`{"action":"list-keys","tenant":"acme"}`)["keys"].([]any)
	require.Len(t, keys, 2)
	first := keys[0].(map[string]any)
	require.Equal(t, revoked["revokedAt"], first["revokedAt"])
	require.NotContains(t, first, "apiKey")
	require.NotContains(t, keys[1], "revokedAt")
	require.NotContains(t, first, "tokensRevokedAt")
	leaked := manage(`{"action":"revoke-key","tenant":"acme","keyId":"` + id + `","tokens":true}`)
	require.Equal(t, revoked["revokedAt"], leaked["revokedAt"], "it was revoked before")
	require.NotEmpty(t, leaked["tokensRevokedAt"])
	require.Equal(t, leaked, manage(`{"action":"revoke-key","tenant":"acme","keyId":"`+id+`","tokens":true}`), "once and for ever")
	require.Equal(t, leaked, manage(`{"action":"revoke-key","tenant":"acme","keyId":"`+id+`"}`), "nothing makes them valid again")
	first = manage(`{"action":"list-keys","tenant":"acme"}`)["keys"].([]any)[0].(map[string]any)
	require.Equal(t, leaked["tokensRevokedAt"], first["tokensRevokedAt"])
	require.NotEmpty(t, manage(`{"action":"suspend-tenant","slug":"acme"}`)["suspendedAt"])
	require.NotContains(t, manage(`{"action":"resume-tenant","slug":"acme"}`), "suspendedAt")

	before := s.snapshot(t)
	for payload, code := range map[string]string{
		``: "malformed_json", `[]`: "wrong_type", `{}`: "missing_field", `{"action":"drop"}`: "out_of_range", `{"action":1}`: "wrong_type",
		`{"action":"create-tenant"}`: "missing_field", `{"action":"create-tenant","slug":"Acme"}`: "invalid_slug",
		`{"action":"create-tenant","slug":"-a"}`: "invalid_slug", `{"action":"create-tenant","slug":""}`: "invalid_slug",
		`{"action":"create-tenant","slug":"a","tenant":"b"}`:                                                           "unknown_field",
		`{"action":"create-tenant","slug":"` + strings.Repeat("a", 64) + `"}`:                                          "invalid_slug",
		`{"action":"list-tenants","slug":"a"}`:                                                                         "unknown_field",
		`{"action":"suspend-tenant","slug":"nobody"}`:                                                                  "not_found",
		`{"action":"create-key","tenant":"nobody","name":"n","scopes":["read"]}`:                                       "not_found",
		`{"action":"create-key","tenant":"acme","name":"","scopes":["read"]}`:                                          "invalid_name",
		`{"action":"create-key","tenant":"acme","name":"n"}`:                                                           "missing_field",
		`{"action":"create-key","tenant":"acme","name":"n","scopes":[]}`:                                               "out_of_range",
		`{"action":"create-key","tenant":"acme","name":"n","scopes":["admin"]}`:                                        "out_of_range",
		`{"action":"create-key","tenant":"acme","name":"n","scopes":["read","read"]}`:                                  "out_of_range",
		`{"action":"create-key","tenant":"acme","name":"n","scopes":"read"}`:                                           "wrong_type",
		`{"action":"create-key","tenant":"acme","name":"n","scopes":null}`:                                             "wrong_type",
		`{"action":"create-key","tenant":"acme","name":"n","scopes":["read"],"expiresAt":"soon"}`:                      "wrong_type",
		`{"action":"create-key","tenant":"acme","name":"n","scopes":["read"],"expiresAt":"2020-01-01T00:00:00Z"}`:      "out_of_range",
		`{"action":"create-key","tenant":"acme","name":"n","scopes":["read"],"expiresAt":"9999-12-31T23:59:59-01:00"}`: "out_of_range",
		`{"action":"list-keys","tenant":"nobody"}`:                                                                     "not_found",
		`{"action":"revoke-key","tenant":"demo","keyId":"` + id + `"}`:                                                 "not_found",
		`{"action":"revoke-key","tenant":"acme","keyId":"` + workflowID + `"}`:                                         "not_found",
		`{"action":"revoke-key","tenant":"acme","keyId":"x"}`:                                                          "invalid_uuid",
		`{"action":"revoke-key","tenant":"acme","keyId":"` + id + `","tokens":"tokens"}`:                               "wrong_type",
		`{"action":"list-keys","tenant":"acme","tokens":true}`:                                                         "unknown_field",
		`{"action":"set-limits","slug":"acme"}`:                                                                        "missing_field",
		`{"action":"set-limits","slug":"acme","places":1}`:                                                             "unknown_field",
		`{"action":"set-limits","slug":"acme","waits":1001}`:                                                           "out_of_range",
		`{"action":"set-limits","slug":"acme","pending":-1}`:                                                           "out_of_range",
		`{"action":"set-limits","slug":"acme","pending":"1"}`:                                                          "wrong_type",
		`{"action":"set-limits","slug":"acme","workflowPromises":0}`:                                                   "out_of_range",
		`{"action":"set-limits","slug":"nobody","held":1}`:                                                             "not_found",
		`{"action":"delete-tenant"}`:                                                                                   "missing_field",
		`{"action":"delete-tenant","slug":"nobody"}`:                                                                   "not_found",
		`{"action":"delete-tenant","slug":"nobody","confirm":true}`:                                                    "not_found",
		`{"action":"delete-tenant","slug":"acme","confirm":true}`:                                                      "forbidden",
		`{"action":"delete-tenant","slug":"acme","confirm":"yes"}`:                                                     "wrong_type",
	} {
		_, err := h.Invoke(t.Context(), []byte(payload))
		requireFunctionError(t, code, err)
	}
	require.Equal(t, before, s.snapshot(t))
	require.NotContains(t, s.log.String(), "prk_secret")
	h.Store = nil
	_, err := h.Invoke(t.Context(), []byte(`{"action":"list-tenants"}`))
	requireFunctionError(t, "internal", err)
	require.False(t, errors.Is(err, promise.ErrNotFound))
}

func TestSampleTenantCalls(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("../../events/manage-tenants.*.json")
	require.NoError(t, err)
	require.Len(t, files, 11)
	for _, file := range files {
		s := newService(t)
		s.db.Exec(t, "INSERT INTO api_key (id, tenant_id, name, hash, scopes) SELECT $1::UUID, id, 'n', sha256('k'), '{read}' FROM tenant", keyID)
		h := &gateway.TenantHandler{
			Store: repository.New(s.db.Pool), Timeout: 10 * time.Second, Log: slog.New(slog.NewTextHandler(s.log, nil)),
			NewAPIKey: func() (string, []byte) { return "prk_secret", make([]byte, 32) },
		}
		payload, err := os.ReadFile(file)
		require.NoError(t, err)
		_, err = h.Invoke(t.Context(), payload)
		if strings.Contains(file, ".bad-") {
			requireFunctionError(t, "invalid_slug", err)
		} else {
			require.NoError(t, err, file)
		}
	}
}
