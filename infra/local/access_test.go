package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/routes"
)

// access lists for each route the required scope or token verb, and a body with which the call would have an effect. The test fails
// for a route that is missing here.
var access = map[string]struct {
	scope, verb string // verb: the verb that a token must allow; empty: the route accepts no token
	body        string
}{
	"POST /api/tenants/{slug}/promises":                                   {"create", "", `{"workflowExecutionId":"0b5c1f4e-6a0e-4f0a-9c58-2d1a3c7e9b10","name":"another"}`},
	"GET /api/tenants/{slug}/promises":                                    {"read", "", ""},
	"POST /api/tenants/{slug}/promises/batch-resolve":                     {"settle", "", `{"items":[{"identifier":"id:{id}","value":1}]}`},
	"GET /api/tenants/{slug}/promises/{identifier}":                       {"read", "", ""},
	"GET /api/tenants/{slug}/promises/{identifier}/wait":                  {"read", "", ""},
	"DELETE /api/tenants/{slug}/promises/{identifier}":                    {"manage", "", ""},
	"POST /api/tenants/{slug}/promises/{identifier}/resolve":              {"settle", "resolve", `{"value":1}`},
	"POST /api/tenants/{slug}/promises/{identifier}/reject":               {"settle", "reject", `{"error":"x"}`},
	"POST /api/tenants/{slug}/promises/{identifier}/cancel":               {"create", "", ""},
	"POST /api/tenants/{slug}/promises/{identifier}/extend":               {"create", "", `{"timeoutMs":60000}`},
	"POST /api/tenants/{slug}/promises/{identifier}/revoke-tokens":        {"create", "", ""},
	"GET /api/tenants/{slug}/workflows/{workflowExecutionId}/events":      {"read", "", ""},
	"GET /api/tenants/{slug}/workflows/{workflowExecutionId}/events/wait": {"read", "", ""},
	"GET /api/tenants/{slug}/deliveries":                                  {"read", "", ""},
	"POST /api/tenants/{slug}/deliveries/retry":                           {"deliver", "", `{"destination":"stepFunctions","state":"dead"}`},
	"POST /api/tenants/{slug}/deliveries/{deliveryId}/retry":              {"deliver", "", ""},
	"GET /api/tenants/{slug}/destinations":                                {"manage", "", ""},
	"GET /api/tenants/{slug}/destinations/{name}":                         {"manage", "", ""},
	"PUT /api/tenants/{slug}/destinations/{name}":                         {"manage", "", `{"kind":"https","url":"https://example.com/"}`},
	"DELETE /api/tenants/{slug}/destinations/{name}":                      {"manage", "", ""},
	"POST /api/tenants/{slug}/destinations/{name}/rotate-secret":          {"manage", "", ""},
	"POST /api/tenants/{slug}/destinations/{name}/test":                   {"manage", "", ""},
	"PUT /api/tenants/{slug}/default-destination":                         {"manage", "", `{"destination":"orders"}`},
	"GET /api/tenants/{slug}/sources":                                     {"manage", "", ""},
	"GET /api/tenants/{slug}/sources/{name}":                              {"manage", "", ""},
	"PUT /api/tenants/{slug}/sources/{name}":                              {"manage", "", `{"verifier":{"preset":"github"},"rules":[]}`},
	"DELETE /api/tenants/{slug}/sources/{name}":                           {"manage", "", ""},
	"POST /api/tenants/{slug}/sources/{name}/rotate-secret":               {"manage", "", ""},
	"POST /api/tenants/{slug}/sources/{name}/test":                        {"manage", "", `{"headers":{},"body":"{}"}`},
	"GET /api/tenants/{slug}/receipts":                                    {"read", "", ""},
	"POST /api/tenants/{slug}/receipts/{receiptId}/replay":                {"manage", "", ""},
	"POST /api/tenants/{slug}/webhooks/{source}":                          {"", "", `{"run":1}`},
	"POST /api/tenants/{slug}/callbacks/{identifier}/resolve":             {"", "resolve", `{"value":1}`},
	"POST /api/tenants/{slug}/callbacks/{identifier}/reject":              {"", "reject", `{"error":"x"}`},
	"POST /api/tenants/{slug}/callbacks/{identifier}/resolve/{token}":     {"", "resolve", `{"value":1}`},
	"POST /api/tenants/{slug}/callbacks/{identifier}/reject/{token}":      {"", "reject", `{"error":"x"}`},
}

// TestAccess calls every route of the complete service with every kind of credential that does not authorize the call. It checks the
// exact status, and that no row changes.
func TestAccess(t *testing.T) {
	t.Parallel()
	r := startRunner(t)
	invoke := func(function, payload string) map[string]any {
		t.Helper()
		out := r.lambda(t, function, payload)
		require.Nil(t, out.FunctionError, "%s", out.Payload)
		var fields map[string]any
		require.NoError(t, json.Unmarshal(out.Payload, &fields))
		return fields
	}
	key := func(tenant, scopes, more string) (secret, id string) {
		k := invoke("manage-tenants", `{"action":"create-key","tenant":"`+tenant+`","name":"test","scopes":[`+scopes+`]`+more+`}`)
		return k["apiKey"].(string), k["keyId"].(string)
	}
	invoke("manage-tenants", `{"action":"create-tenant","slug":"other"}`)
	invoke("manage-tenants", `{"action":"create-tenant","slug":"suspended"}`)
	all := `"create","settle","read","manage","deliver"`
	revoked, id := key("demo", all, "")
	invoke("manage-tenants", `{"action":"revoke-key","tenant":"demo","keyId":"`+id+`"}`)
	expired, expires := key("demo", all, `,"expiresAt":"`+time.Now().Add(time.Hour).Format(time.RFC3339Nano)+`"`)
	foreign, _ := key("other", all, "")
	suspended, _ := key("suspended", all, "")
	invoke("manage-tenants", `{"action":"suspend-tenant","slug":"suspended"}`)
	without := map[string]string{}
	without["create"], _ = key("demo", `"settle","read","manage","deliver"`, "")
	without["settle"], _ = key("demo", `"create","read","manage","deliver"`, "")
	without["read"], _ = key("demo", `"create","settle","manage","deliver"`, "")
	without["manage"], _ = key("demo", `"create","settle","read","deliver"`, "")
	without["deliver"], _ = key("demo", `"create","settle","read","manage"`, "")

	const workflow = "0b5c1f4e-6a0e-4f0a-9c58-2d1a3c7e9b10"
	create := func(name, verbs, ttl string) (promiseID, token string) {
		p := invoke("create-promise", `{"tenant":"demo","workflowExecutionId":"`+workflow+`","name":"`+name+`",
			"tokens":{"verbs":[`+verbs+`],"ttlSeconds":`+ttl+`}}`)
		return p["promiseId"].(string), p["token"].(string)
	}
	both := `"resolve","reject"`
	promiseID, resolves := create("payment", `"resolve"`, "600")
	_, rejects := create("payment", `"reject"`, "600")
	_, expiredToken := create("payment", both, "1")
	leaked := func() string { // a token whose API key was revoked with its tokens
		secret, id := key("demo", all, "")
		req, err := http.NewRequestWithContext(t.Context(), "POST", r.ready.HTTPURL+"/api/tenants/demo/promises", strings.NewReader(
			`{"workflowExecutionId":"`+workflow+`","name":"payment","tokens":{"verbs":["resolve","reject"],"ttlSeconds":600}}`))
		require.NoError(t, err)
		req.Header.Set("Authorization", "Bearer "+secret)
		resp, err := http.DefaultClient.Do(req)
		require.NoError(t, err)
		defer resp.Body.Close()
		var p struct{ Token string }
		require.NoError(t, json.NewDecoder(resp.Body).Decode(&p))
		invoke("manage-tenants", `{"action":"revoke-key","tenant":"demo","keyId":"`+id+`","tokens":true}`)
		return p.Token
	}()
	withdrawnID, withdrawn := create("withdrawn", both, "600")
	invoke("revoke-tokens", `{"tenant":"demo","promiseId":"`+withdrawnID+`"}`)
	_, elsewhere := create("approval", both, "600")
	theirs := invoke("create-promise", `{"tenant":"other","workflowExecutionId":"7d9f1f3a-3c1e-4e5b-8a57-0c2f6f1f4a11","name":"n",
		"tokens":{"verbs":["resolve","reject"],"ttlSeconds":600}}`)["token"].(string)
	invoke("create-promise", `{"tenant":"demo","workflowExecutionId":"`+workflow+`","name":"notify","notify":[{"stepFunctions":{"taskToken":"x"}}]}`)
	invoke("manage-integrations", `{"tenant":"demo","action":"put-destination","name":"orders","kind":"https","url":"https://example.com/"}`)
	webhookURL, secret := r.putSource(t, "orders", `"keyPrefix":"run:","rules":[{"key":"'run:' + string(body.run)","then":"resolve"}],"keepBody":true`)
	status, kept, err := postWebhook(webhookURL, secret, `{"run":2}`)
	require.NoError(t, err)
	require.Equal(t, 200, status, "%s", kept)
	var receipt struct{ ReceiptID string }
	require.NoError(t, json.Unmarshal(kept, &receipt))
	time.Sleep(2 * time.Second) // until expiredToken has expired

	conn, err := pgx.Connect(t.Context(), r.ready.DatabaseURL)
	require.NoError(t, err)
	defer conn.Close(t.Context()) //nolint:errcheck // nothing is lost with it
	var deliveryID string
	require.NoError(t, conn.QueryRow(t.Context(), "UPDATE delivery SET state = 'dead' RETURNING id::TEXT").Scan(&deliveryID))
	snapshot := func(t *testing.T) string {
		t.Helper()
		var all []string
		for _, table := range []string{
			"tenant", "workflow_execution", "promise", "idempotency_key", "workflow_event", "api_key", "destination", "destination_secret", "delivery",
			"(SELECT id, name, version, definition, enabled, updated_at FROM source)", // the other columns say when it refused a request
			"source_secret", "receipt", "receipt_body",
		} {
			rows, err := conn.Query(t.Context(), "SELECT x::TEXT FROM "+table+" x ORDER BY 1")
			require.NoError(t, err)
			lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
			require.NoError(t, err)
			all = append(append(all, table), lines...)
		}
		return strings.Join(all, "\n")
	}
	tag, err := conn.Exec(t.Context(), "UPDATE api_key SET expires_at = NOW() WHERE id = $1", expires)
	require.NoError(t, err)
	require.EqualValues(t, 1, tag.RowsAffected())
	before := snapshot(t)

	garbage := "prk_0000000000000000000000000000000000000000zzzzzzz"
	for _, route := range routes.HTTP {
		name := route.Method + " " + route.Path
		t.Run(name, func(t *testing.T) {
			needs, known := access[name]
			require.True(t, known, "add the route to access")
			if route.Function == "receive-webhook" {
				testWebhookAccess(t, webhookURL, needs.body, []string{
					"", "garbage", garbage, revoked, expired, suspended, foreign, r.ready.APIKey, secret, resolves, rejects, leaked, expiredToken,
				})
				return
			}
			callback := slices.Contains(routes.SelfVerifying, route.Function)
			at := promiseID
			path := strings.NewReplacer("{slug}", "demo", "{identifier}", "id:"+promiseID, "{workflowExecutionId}", workflow, "{deliveryId}", deliveryID, "{name}", "orders", "{receiptId}", receipt.ReceiptID).Replace(route.Path)
			call := func(what, credential string, want int) {
				t.Helper()
				t.Run(what, func(t *testing.T) {
					target := r.ready.HTTPURL + strings.ReplaceAll(path, promiseID, at)
					switch {
					case strings.Contains(target, "{token}"):
						target = strings.ReplaceAll(target, "{token}", credential)
					case callback && credential != "":
						target += "?token=" + credential
					}
					req, err := http.NewRequestWithContext(t.Context(), route.Method, target, bytes.NewReader([]byte(strings.ReplaceAll(needs.body, "{id}", promiseID))))
					require.NoError(t, err)
					req.Header.Set("Content-Type", "application/json")
					if !callback && credential != "" {
						req.Header.Set("Authorization", "Bearer "+credential)
					}
					resp, err := http.DefaultClient.Do(req)
					require.NoError(t, err)
					body, err := io.ReadAll(resp.Body)
					resp.Body.Close()
					require.NoError(t, err)
					require.Equal(t, want, resp.StatusCode, "%s", body)
					if callback && resp.StatusCode != 404 || want == 404 {
						require.Equal(t, "application/problem+json", resp.Header.Get("Content-Type"))
					}
					require.NotContains(t, string(body), promiseID)
				})
			}
			if !strings.HasSuffix(path, "/{token}") { // without a token there is no such route
				call("no credential", "", 401)
			}
			call("garbage", "garbage", 403)
			call("an invalid API key", garbage, 403)
			call("an unsigned token", "eyJhbGciOiJub25lIn0.e30.", 403)
			call("a revoked key", revoked, 403)
			call("an expired key", expired, 403)
			call("a suspended tenant's key", suspended, 403)
			call("an expired token", expiredToken, 403)
			call("another token's signature", resolves[:strings.LastIndexByte(resolves, '.')]+leaked[strings.LastIndexByte(leaked, '.'):], 403)
			call("half a token", resolves[:len(resolves)-3], 403)
			call("a token whose key leaked", leaked, 403)
			at = withdrawnID
			call("a revoked token", withdrawn, 403)
			at = promiseID
			call("a token for another promise", elsewhere, 403)
			call("another tenant's token", theirs, 404)
			switch needs.verb {
			case "resolve":
				call("a token without the verb", rejects, 403)
			case "reject":
				call("a token without the verb", resolves, 403)
			default:
				call("a token", resolves, 403)
			}
			if callback {
				call("a key in a URL", r.ready.APIKey, 403)
				call("a token after its scheme", "Bearer%20"+resolves, 403)
				if !strings.HasSuffix(path, "/{token}") {
					call("two tokens", resolves+"&token="+resolves, 403)
					call("an empty token", "&x=1", 401)
				}
				return
			}
			call("another tenant's key", foreign, 404)
			call("a key without the scope", without[needs.scope], 403)
			t.Run("a key without its scheme", func(t *testing.T) {
				req, err := http.NewRequestWithContext(t.Context(), route.Method, r.ready.HTTPURL+path, nil)
				require.NoError(t, err)
				req.Header.Set("Authorization", r.ready.APIKey)
				resp, err := http.DefaultClient.Do(req)
				require.NoError(t, err)
				resp.Body.Close()
				require.Equal(t, 403, resp.StatusCode)
			})
		})
	}
	t.Run("no row has changed", func(t *testing.T) { require.Equal(t, before, snapshot(t)) })
	t.Run("access lists only existing routes", func(t *testing.T) { require.Len(t, access, len(routes.HTTP)) })

	for _, c := range []struct{ name, path, body, credential, want string }{
		{"a callback URL authorizes its verb", "callbacks/id:" + promiseID + "/resolve/" + resolves + "?utm_source=mail", `{"value":1}`, "", "settled"},
		{"the same token as a bearer token", "promises/id:" + promiseID + "/resolve", `{"value":1}`, resolves, "duplicate"},
		{"a key without the scope read may settle", "promises/id:" + promiseID + "/reject", `{"error":"x"}`, without["read"], "conflict"},
	} {
		t.Run(c.name, func(t *testing.T) {
			req, err := http.NewRequestWithContext(t.Context(), "POST", r.ready.HTTPURL+"/api/tenants/demo/"+c.path, strings.NewReader(c.body))
			require.NoError(t, err)
			req.Header.Set("Content-Type", "application/json")
			if c.credential != "" {
				req.Header.Set("Authorization", "bearer "+c.credential)
			}
			resp, err := http.DefaultClient.Do(req)
			require.NoError(t, err)
			body, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			require.NoError(t, err)
			require.Contains(t, string(body), fmt.Sprintf(`"outcome":%q`, c.want))
		})
	}
	r.stop(t, syscall.SIGINT)
}

// testWebhookAccess posts a body to a source with every credential that does not sign it, and to URLs that name no source. Each answer
// is the same refusal.
func testWebhookAccess(t *testing.T, url, body string, credentials []string) {
	const signature = "X-Hub-Signature-256"
	path, segment := url[:strings.LastIndexByte(url, '/')+1], url[strings.LastIndexByte(url, '/')+1:]
	checksum := segment[strings.LastIndexByte(segment, '-'):]
	refused := ""
	refuse := func(what, url string, header http.Header) {
		t.Helper()
		t.Run(what, func(t *testing.T) {
			req, err := http.NewRequestWithContext(t.Context(), "POST", url, strings.NewReader(body))
			require.NoError(t, err)
			req.Header = header
			req.Header.Set("Content-Type", "application/json")
			resp, err := http.DefaultClient.Do(req)
			require.NoError(t, err)
			answer, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			require.NoError(t, err)
			require.Equal(t, 401, resp.StatusCode, "%s", answer)
			require.Equal(t, "application/problem+json", resp.Header.Get("Content-Type"))
			if refused == "" {
				refused = string(answer)
			}
			require.Equal(t, refused, string(answer))
		})
	}
	for i, credential := range credentials {
		name := fmt.Sprintf("credential %d", i)
		refuse(name, url, http.Header{"Authorization": {"Bearer " + credential}})
		refuse(name+" in the query", url+"?token="+credential, http.Header{})
		refuse(name+" as the signature", url, http.Header{signature: {"sha256=" + credential}})
	}
	refuse("another body's signature", url, http.Header{signature: {"sha256=" + strings.Repeat("0f", 32)}})
	refuse("an invented source", path+"invented"+checksum, http.Header{})
	refuse("a wrong checksum", url[:len(url)-1]+"0", http.Header{})
	refuse("no checksum", path+"orders", http.Header{})
	refuse("another tenant", strings.Replace(url, "/demo/", "/other/", 1), http.Header{})
	refuse("no such tenant", strings.Replace(url, "/demo/", "/nobody/", 1), http.Header{})
}
