package gateway_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"maps"
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

const tokenID = "5d2f8f0c-9a51-4f43-8f6e-3b1f6f0c7a55"

// principals returns what the authorizer says of an API key that may settle, and of a token that may resolve the sample promise.
func principals() (apiKey, token map[string]string) {
	token = promise.Principal{
		By: promise.By{Kind: promise.KindToken, ID: tokenID}, Tenant: tenant, Verbs: []promise.Verb{promise.VerbResolve},
	}.Texts()
	token["promiseId"] = promiseID
	return keyHolder(tenant, promise.ScopeSettle).Texts(), token
}

// with returns a copy of the texts in which one has another value.
func with(texts map[string]string, name, value string) map[string]string {
	changed := maps.Clone(texts)
	changed[name] = value
	return changed
}

func TestPrincipalOfAnEvent(t *testing.T) {
	t.Parallel()
	s := newService(t)
	s.promise(t)
	before := s.snapshot(t)
	event := httpEvent(t, "POST", tenant, "id:"+promiseID, "", `{"value":1}`)
	apiKey, token := principals()
	for _, c := range []struct {
		name   string
		texts  map[string]string
		status int
		code   string
	}{
		{"no authorizer's answer", nil, 401, "unauthenticated"},
		{"an empty answer", map[string]string{}, 401, "unauthenticated"},
		{"no kind", with(apiKey, "kind", ""), 401, "unauthenticated"},
		{"kind direct", with(apiKey, "kind", "direct"), 401, "unauthenticated"},
		{"kind deadline", with(apiKey, "kind", "deadline"), 401, "unauthenticated"},
		{"kind in another case", with(apiKey, "kind", "Key"), 401, "unauthenticated"},
		{"an expired key", with(apiKey, "expiresAt", "2020-01-01T00:00:00Z"), 401, "unauthenticated"},
		{"a key whose expiry is not a time", with(apiKey, "expiresAt", "never"), 401, "unauthenticated"},
		{"a key whose id is text", with(apiKey, "id", "the CFO, in person"), 401, "unauthenticated"},
		{"a key with a long id", with(apiKey, "id", strings.Repeat("x", 300)), 401, "unauthenticated"},
		{"a key without an id", with(apiKey, "id", ""), 401, "unauthenticated"},
		{"a key whose id is the nil UUID", with(apiKey, "id", "00000000-0000-0000-0000-000000000000"), 401, "unauthenticated"},
		{"a token with a long id", with(token, "id", strings.Repeat("x", 300)), 401, "unauthenticated"},
		{"another tenant's key", with(apiKey, "tenant", "other"), 404, "not_found"},
		{"a key without a tenant", with(apiKey, "tenant", ""), 404, "not_found"},
		{"a key without the scope", with(apiKey, "scopes", "create read"), 403, "forbidden"},
		{"a key without any scope", with(apiKey, "scopes", ""), 403, "forbidden"},
		{"another tenant's token", with(token, "tenant", "other"), 404, "not_found"},
		{"a token without the verb", with(token, "verbs", "reject"), 403, "forbidden"},
		{"a token of another promise", with(token, "promiseId", workflowID), 403, "forbidden"},
		{"a token whose promise is not a UUID", with(token, "promiseId", "all"), 401, "unauthenticated"},
		{"an expired token", with(token, "expiresAt", "2020-01-01T00:00:00Z"), 401, "unauthenticated"},
	} {
		t.Run(c.name, func(t *testing.T) {
			requireProblem(t, c.status, c.code, respond(t, s.handler(t, "resolve"), withAuthorizer(t, event, c.texts)))
		})
	}

	t.Run("a slug of another tenant is not logged", func(t *testing.T) {
		planted := httpEvent(t, "POST", "planted", "id:"+promiseID, "", `{"value":1}`)
		requireProblem(t, 404, "not_found", respond(t, s.handler(t, "resolve"), withAuthorizer(t, planted, apiKey)))
		require.NotContains(t, s.log.String(), "planted")
		require.Contains(t, s.log.String(), "tenant=demo")
	})
	t.Run("authorization comes before the errors of a malformed call", func(t *testing.T) {
		malformed := httpEvent(t, "POST", tenant, "nonsense", "x=1", `{`)
		requireProblem(t, 401, "unauthenticated", respond(t, s.handler(t, "resolve"), withAuthorizer(t, malformed, nil)))
	})
	t.Run("a token does not settle by key", func(t *testing.T) {
		byKey := httpEvent(t, "POST", tenant, "key:"+"k", "", `{"value":1}`)
		requireProblem(t, 403, "forbidden", respond(t, s.handler(t, "resolve"), withAuthorizer(t, byKey, token)))
	})
	require.Equal(t, before, s.snapshot(t), "refused calls write nothing")
}

func TestOutcomeOfATokensCall(t *testing.T) {
	t.Parallel()
	s := newService(t)
	s.promise(t)
	event := httpEvent(t, "POST", tenant, "id:"+promiseID, "", `{"value":1}`)
	_, token := principals()

	require.Contains(t, respond(t, s.handler(t, "resolve"), withAuthorizer(t, event, token)).Body, `"outcome":"settled"`)
	t.Run("the token that settled the promise gets the outcome again", func(t *testing.T) {
		again := respond(t, s.handler(t, "resolve"), withAuthorizer(t, event, token))
		require.Contains(t, again.Body, `"outcome":"duplicate"`)
		require.Equal(t, map[string]any{"kind": "token", "id": tokenID}, s.answer(t, "get-promise", payloadByID+"}")["settledBy"])
	})
	// If it got the outcome, it could try values until one is a duplicate.
	for _, query := range []string{"", "strict=true"} {
		t.Run(caseName("another token of the promise does not get the outcome", query), func(t *testing.T) {
			other := httpEvent(t, "POST", tenant, "id:"+promiseID, query, `{"value":1}`)
			got := respond(t, s.handler(t, "resolve"), withAuthorizer(t, other, with(token, "id", workflowID)))
			requireProblem(t, 403, "forbidden", got)
			require.NotContains(t, got.Body, "duplicate")
		})
	}
}

// If the authorizer could not look a credential up, the operation does. It answers 503 while it cannot either.
func TestUnverified(t *testing.T) {
	t.Parallel()
	s := newService(t)
	s.promise(t)
	event := httpEvent(t, "POST", tenant, "id:"+promiseID, "", `{"value":1}`)
	event = bytes.Replace(event, []byte(`"headers":{`), []byte(`"headers":{"authorization":"Basic x",`), 1)
	event = withAuthorizer(t, event, map[string]string{"kind": "unverified"})
	h := s.handler(t, "resolve")

	t.Run("the lookup fails", func(t *testing.T) {
		h.Authenticate = func(context.Context, string, bool) (promise.Principal, error) {
			return promise.Principal{}, &promise.Error{Code: promise.CodeUnavailable, Detail: "away"}
		}
		a := respond(t, h, event)
		requireProblem(t, 503, "unavailable", a)
		require.Equal(t, "1", a.Headers["retry-after"])
	})
	t.Run("the lookup takes too long", func(t *testing.T) {
		h.Authenticate = func(ctx context.Context, _ string, _ bool) (promise.Principal, error) {
			<-ctx.Done()
			return promise.Principal{}, ctx.Err()
		}
		h.Timeout = 10 * time.Millisecond
		requireProblem(t, 503, "unavailable", respond(t, h, event))
		h.Timeout = 10 * time.Second
	})
	t.Run("the credential is unknown", func(t *testing.T) {
		h.Authenticate = func(_ context.Context, source string, inHeader bool) (promise.Principal, error) {
			require.Equal(t, "Basic x", source)
			require.True(t, inHeader)
			return promise.Principal{By: promise.By{Kind: promise.KindAnonymous}}, nil
		}
		requireProblem(t, 401, "unauthenticated", respond(t, h, event))
	})
	t.Run("the credential is valid", func(t *testing.T) {
		h.Authenticate = func(context.Context, string, bool) (promise.Principal, error) {
			return keyHolder(tenant, promise.ScopeSettle), nil
		}
		require.Contains(t, respond(t, h, event).Body, `"outcome":"settled"`)
	})
}

func TestTokensOfACreation(t *testing.T) {
	t.Parallel()
	s := newService(t)
	body := `{"workflowExecutionId":"` + workflowID + `","name":"n","tokens":{"verbs":["resolve"],"ttlSeconds":60}}`
	event := httpEvent(t, "POST", tenant, "", "", body)
	var made struct{ Created, PromiseID, Token, ResolveURL, RejectURL any }
	a := s.post(t, "create-promise", "", "", body)
	require.Equal(t, 201, a.StatusCode, a.Body)
	require.NoError(t, json.Unmarshal([]byte(a.Body), &made))

	t.Run("the answer has the token, and a URL for each of its verbs", func(t *testing.T) {
		token := "token.demo." + made.PromiseID.(string) + ".[resolve].1m0s"
		require.Equal(t, token, made.Token)
		require.Equal(t, "https://api.example.com/api/tenants/demo/callbacks/id:"+made.PromiseID.(string)+"/resolve?token="+
			strings.NewReplacer("[", "%5B", "]", "%5D").Replace(token), made.ResolveURL)
		require.Nil(t, made.RejectURL)
	})
	t.Run("a repeated create succeeds", func(t *testing.T) {
		require.Equal(t, 200, s.post(t, "create-promise", "", "", body).StatusCode)
	})

	s.answer(t, "resolve", `{"tenant":"demo","promiseId":"`+made.PromiseID.(string)+`","value":"secret","comment":"secret"}`)
	creator := keyHolder(tenant, promise.ScopeCreate, promise.ScopeSettle)
	creator.ExpiresAt = time.Now().Add(10 * time.Second)
	again := respond(t, s.handler(t, "create-promise"), withAuthorizer(t, event, creator.Texts()))
	require.Equal(t, 200, again.StatusCode)
	t.Run("a key without the scope read does not get the value", func(t *testing.T) {
		require.NotContains(t, again.Body, "secret")
	})
	t.Run("no token outlives the key that asked for it", func(t *testing.T) {
		require.NotContains(t, again.Body, "1m0s")
	})
	t.Run("a key with the scope read gets the value", func(t *testing.T) {
		creator.Scopes = promise.Scopes
		require.Contains(t, respond(t, s.handler(t, "create-promise"), withAuthorizer(t, event, creator.Texts())).Body, "secret")
	})
}

func TestTokensOfACreation_CannotBeSigned(t *testing.T) {
	t.Parallel()
	s := newService(t)
	event := httpEvent(t, "POST", tenant, "", "", `{"workflowExecutionId":"`+workflowID+`","name":"n","tokens":{"verbs":["resolve"],"ttlSeconds":60}}`)
	before := s.snapshot(t)
	h := s.handler(t, "create-promise")
	h.PublicURL = ""
	t.Run("without a signer", func(t *testing.T) {
		h.Signer = nil
		requireProblem(t, 500, "internal", respond(t, h, event))
		require.Contains(t, s.log.String(), "SIGNING_KEY is not set")
	})
	t.Run("while the signer is unavailable", func(t *testing.T) {
		h.Signer = func(context.Context) (gateway.SignToken, error) { return nil, errors.New("the keys are away") }
		requireProblem(t, 503, "unavailable", respond(t, h, event))
		require.Contains(t, s.log.String(), "the keys are away")
	})
	require.Equal(t, before, s.snapshot(t), "no promise is created")
}

func TestInvalidTokensOfACreation(t *testing.T) {
	t.Parallel()
	s := newService(t)
	before := s.snapshot(t)
	for tokens, code := range map[string]string{
		`null`: "wrong_type", `{}`: "missing_field", `{"verbs":["resolve"]}`: "missing_field", `{"ttlSeconds":1}`: "missing_field",
		`{"verbs":[],"ttlSeconds":1}`: "missing_field", `{"verbs":["cancel"],"ttlSeconds":1}`: "out_of_range",
		`{"verbs":["resolve","resolve"],"ttlSeconds":1}`: "out_of_range", `{"verbs":"resolve","ttlSeconds":1}`: "wrong_type",
		`{"verbs":[1],"ttlSeconds":1}`: "out_of_range", `{"verbs":["resolve"],"ttlSeconds":0}`: "out_of_range",
		`{"verbs":["resolve"],"ttlSeconds":31536001}`: "out_of_range", `{"verbs":["resolve"],"ttlSeconds":1,"x":1}`: "unknown_field",
		`{"verbs":["resolve"],"ttlSeconds":1,"body":"RAW"}`: "out_of_range", `{"verbs":["resolve"],"ttlSeconds":1,"body":true}`: "wrong_type",
	} {
		t.Run(caseName(tokens, code), func(t *testing.T) {
			a := s.post(t, "create-promise", "", "", `{"workflowExecutionId":"`+workflowID+`","name":"m","tokens":`+tokens+`}`)
			field, _, _ := strings.Cut(requireProblem(t, 400, code, a)["field"].(string), ".")
			require.Equal(t, "tokens", field)
		})
	}
	require.Equal(t, before, s.snapshot(t), "refused calls write nothing")
}

// manager returns a handler of manage-tenants, and a function that calls it and decodes its answer. Each API key has another hash.
func manager(s *service) (*gateway.TenantHandler, func(t testing.TB, payload string) map[string]any) {
	n := byte(0)
	h := &gateway.TenantHandler{
		Store: repository.New(s.db.Pool), Timeout: 10 * time.Second, Log: slog.New(slog.NewTextHandler(s.log, nil)), Integrations: integrations,
		NewAPIKey: func() (string, []byte) { n++; return "prk_secret", append(make([]byte, 31), n) },
	}
	return h, func(t testing.TB, payload string) map[string]any {
		t.Helper()
		got, err := h.Invoke(t.Context(), []byte(payload))
		require.NoError(t, err, payload)
		var fields map[string]any
		require.NoError(t, json.Unmarshal(got, &fields))
		return fields
	}
}

func TestManageTenants(t *testing.T) {
	t.Parallel()
	s := newService(t)
	h, manage := manager(s)
	made := manage(t, `{"action":"create-tenant","slug":"acme"}`)
	t.Run("a repeated create-tenant returns the same tenant", func(t *testing.T) {
		require.Equal(t, true, made["created"])
		again := manage(t, `{"action":"create-tenant","slug":"acme"}`)
		require.Equal(t, false, again["created"])
		require.Equal(t, made["tenantId"], again["tenantId"])
		require.Len(t, manage(t, `{"action":"list-tenants"}`)["tenants"], 2)
		require.Empty(t, manage(t, `{"action":"list-keys","tenant":"acme"}`)["keys"])
	})
	apiKey := manage(t, `{"action":"create-key","tenant":"acme","name":"checkout","scopes":["settle","read"],"expiresAt":"2100-01-01T00:00:00+01:00"}`)
	id := apiKey["keyId"].(string)
	t.Run("a repeated create-key makes another key", func(t *testing.T) {
		require.Equal(t, "prk_secret", apiKey["apiKey"])
		require.Equal(t, "2099-12-31T23:00:00Z", apiKey["expiresAt"])
		other := manage(t, `{"action":"create-key","tenant":"acme","name":"checkout","scopes":["create"]}`)
		require.NotEqual(t, id, other["keyId"])
	})
	revoked := manage(t, `{"action":"revoke-key","tenant":"acme","keyId":"`+id+`","tokens":false}`)
	t.Run("a repeated revoke-key keeps the time of the first", func(t *testing.T) {
		require.NotContains(t, revoked, "tokensRevokedAt")
		require.Equal(t, revoked, manage(t, `{"action":"revoke-key","tenant":"acme","keyId":"`+id+`"}`))
	})
	t.Run("list-keys shows the revocation and no secret", func(t *testing.T) {
		keys := manage(t, `{"action":"list-keys","tenant":"acme"}`)["keys"].([]any)
		require.Len(t, keys, 2)
		first := keys[0].(map[string]any)
		require.Equal(t, revoked["revokedAt"], first["revokedAt"])
		require.NotContains(t, first, "apiKey")
		require.NotContains(t, keys[1], "revokedAt")
		require.NotContains(t, first, "tokensRevokedAt")
	})
	t.Run("the tokens of a revoked key can be revoked later, for ever", func(t *testing.T) {
		leaked := manage(t, `{"action":"revoke-key","tenant":"acme","keyId":"`+id+`","tokens":true}`)
		require.Equal(t, revoked["revokedAt"], leaked["revokedAt"], "the key was revoked before")
		require.NotEmpty(t, leaked["tokensRevokedAt"])
		require.Equal(t, leaked, manage(t, `{"action":"revoke-key","tenant":"acme","keyId":"`+id+`","tokens":true}`), "the first time stays")
		require.Equal(t, leaked, manage(t, `{"action":"revoke-key","tenant":"acme","keyId":"`+id+`"}`), "no later call makes the tokens valid again")
		first := manage(t, `{"action":"list-keys","tenant":"acme"}`)["keys"].([]any)[0].(map[string]any)
		require.Equal(t, leaked["tokensRevokedAt"], first["tokensRevokedAt"])
	})
	t.Run("a suspended tenant can be resumed", func(t *testing.T) {
		require.NotEmpty(t, manage(t, `{"action":"suspend-tenant","slug":"acme"}`)["suspendedAt"])
		require.NotContains(t, manage(t, `{"action":"resume-tenant","slug":"acme"}`), "suspendedAt")
	})
	require.NotContains(t, s.log.String(), "prk_secret", "the log has no secret")
	t.Run("a panic is an internal error", func(t *testing.T) {
		h.Store = nil
		_, err := h.Invoke(t.Context(), []byte(`{"action":"list-tenants"}`))
		requireFunctionError(t, "internal", err)
		require.False(t, errors.Is(err, promise.ErrNotFound))
	})
}

func TestInvalidCallsOfManageTenants(t *testing.T) {
	t.Parallel()
	s := newService(t)
	h, manage := manager(s)
	manage(t, `{"action":"create-tenant","slug":"acme"}`)
	id := manage(t, `{"action":"create-key","tenant":"acme","name":"checkout","scopes":["create"]}`)["keyId"].(string)
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
		t.Run(caseName(payload, code), func(t *testing.T) {
			_, err := h.Invoke(t.Context(), []byte(payload))
			requireFunctionError(t, code, err)
		})
	}
	require.Equal(t, before, s.snapshot(t), "refused calls write nothing")
	require.NotContains(t, s.log.String(), "prk_secret", "the log has no secret")
}

func TestSampleTenantCalls(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("../../events/manage-tenants.*.json")
	require.NoError(t, err)
	require.Len(t, files, 15)
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			s := newService(t)
			s.db.Exec(t, "INSERT INTO api_key (id, tenant_id, name, hash, scopes) SELECT $1::UUID, id, 'n', sha256('k'), '{read}' FROM tenant", apiKeyID)
			h := &gateway.TenantHandler{
				Store: repository.New(s.db.Pool), Timeout: 10 * time.Second, Log: slog.New(slog.NewTextHandler(s.log, nil)),
				NewAPIKey: func() (string, []byte) { return "prk_secret", make([]byte, 32) }, Integrations: integrations,
				Reencrypt: func(context.Context) (promise.Reencryption, error) { return promise.Reencryption{Done: true}, nil },
			}
			s.destination(t)
			payload, err := os.ReadFile(file)
			require.NoError(t, err)
			_, err = h.Invoke(t.Context(), payload)
			if strings.Contains(file, ".bad-") {
				requireFunctionError(t, "invalid_slug", err)
			} else {
				require.NoError(t, err)
			}
		})
	}
}
