package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/auth"
	"github.com/flovyn/promises/shared/routes"
	"github.com/flovyn/promises/shared/skip"
)

// TestCredentials calls a runner without a valid credential, with an API key and with tokens.
func TestCredentials(t *testing.T) {
	t.Parallel()
	r := startRunner(t)
	t.Run("every route refuses missing and invalid credentials", func(t *testing.T) { testInvalidCredentials(t, r) })

	key := "Bearer " + r.ready.APIKey
	id := r.create(t, "k")
	t.Run("an API key reads its tenant's promise", func(t *testing.T) {
		status, body := request(t, "GET", r.promises("/promises/id:"+id), key, "")
		require.Equal(t, 200, status, body)
	})
	t.Run("an API key gets 404 for another tenant", func(t *testing.T) {
		status, body := request(t, "GET", r.ready.HTTPURL+"/api/tenants/other/promises/id:"+id, key, "")
		require.Equal(t, 404, status, body)
	})
	t.Run("callback URL", func(t *testing.T) { testCallbackURL(t, r) })
	t.Run("token made with body raw", func(t *testing.T) { testRawToken(t, r) })
	t.Run("printed commands", func(t *testing.T) { testPrintedCommands(t, r) })
	t.Run("manage-tenants in a shell", func(t *testing.T) { testManageTenantsCommand(t, r) })
	r.stop(t, syscall.SIGINT)
}

// testInvalidCredentials calls each route that has an authorizer. It must be the first test of the runner, because it checks that no
// operation has run.
func testInvalidCredentials(t *testing.T, r *runner) {
	key := r.ready.APIKey
	fill := strings.NewReplacer("{slug}", "demo", "{identifier}", "id:"+uuid.NewString(), "{workflowExecutionId}", uuid.NewString())
	invalid := []string{
		"x", "Bearer", "Bearer x", "Basic " + key, "bearer" + key, key, "Bearer " + key[:len(key)-1], "Bearer " + key + "0", "Bearer " + auth.NewAPIKey(),
	}
	for _, route := range routes.HTTP {
		if slices.Contains(routes.SelfVerifying, route.Function) { // TestAccess covers these with every invalid credential
			continue
		}
		t.Run(route.Method+" "+route.Path, func(t *testing.T) {
			target := r.ready.HTTPURL + fill.Replace(route.Path)
			for _, missing := range []string{target, target + "?token="} {
				status, body := request(t, route.Method, missing, "", "{}")
				require.Equal(t, 401, status, missing)
				require.Equal(t, `{"message":"Unauthorized"}`, body)
			}
			for _, credential := range invalid {
				status, body := request(t, route.Method, target, credential, "{}")
				require.Equal(t, 403, status, "%q", credential)
				require.Equal(t, `{"message":"Forbidden"}`, body)
			}
		})
	}
	t.Run("no operation has run", func(t *testing.T) {
		require.NotContains(t, r.stdout.String(), "create-promise ")
	})
	t.Run("the terminal shows refusals", func(t *testing.T) {
		require.Regexp(t, `(?m)^\S+  authorize +[0-9.]+ ms  warm  refused$`, r.stdout.String())
	})
}

func testCallbackURL(t *testing.T, r *runner) {
	c, other := r.createWithToken(t), r.createWithToken(t)
	requirePending := func(t *testing.T, callbacks ...callback) {
		t.Helper()
		for _, c := range callbacks {
			_, promise := r.call(t, "GET", "/promises/id:"+c.promiseID, "")
			require.Equal(t, "pending", promise["state"])
		}
	}
	t.Run("it is an absolute URL of the runner", func(t *testing.T) {
		require.True(t, strings.HasPrefix(c.resolveURL, r.ready.HTTPURL+"/"), c.resolveURL)
	})
	for _, method := range []string{"GET", "HEAD", "PUT"} { // mail scanners follow links
		t.Run(method+" gets 404", func(t *testing.T) {
			status, body := request(t, method, c.resolveURL, "", "")
			require.Equal(t, 404, status, body)
			requirePending(t, c)
		})
	}
	t.Run("an invalid body gets 400", func(t *testing.T) {
		c.post(t, r.ready.HTTPURL, `{"value":`, 400)
		requirePending(t, c)
	})
	t.Run("another verb gets 403", func(t *testing.T) {
		rejecting := callback{path: strings.Replace(c.path, "/resolve?", "/reject?", 1)}
		rejecting.post(t, r.ready.HTTPURL, `{"error":"no"}`, 403)
		requirePending(t, c)
	})
	t.Run("another promise gets 403", func(t *testing.T) {
		foreign := callback{path: strings.Replace(c.path, c.promiseID, other.promiseID, 1)}
		foreign.post(t, r.ready.HTTPURL, `{"value":1}`, 403)
		requirePending(t, c, other)
	})
	t.Run("the first call settles the promise", func(t *testing.T) {
		require.Contains(t, c.post(t, r.ready.HTTPURL, `{"value":{"ok":true}}`, 200), `"outcome":"settled"`)
		_, promise := r.call(t, "GET", "/promises/id:"+c.promiseID, "")
		require.Equal(t, map[string]any{"ok": true}, promise["value"])
	})
	t.Run("a repeated call learns only that the promise is settled", func(t *testing.T) {
		settled := r.createWithToken(t)
		settled.post(t, r.ready.HTTPURL, `{"value":{"ok":true}}`, 200)
		require.Equal(t, `{"alreadyResolved":true}`, settled.post(t, r.ready.HTTPURL, `{"value":{"ok":true}}`, 200))
	})
	t.Run("the token is a bearer token too", func(t *testing.T) {
		status, body := request(t, "POST", r.promises("/promises/id:"+other.promiseID+"/resolve"), "Bearer "+other.token, `{"value":1}`)
		require.Equal(t, 200, status, body)
	})
	t.Run("a sender may append parameters", func(t *testing.T) {
		appended := r.createWithToken(t)
		appended.path += "?utm_source=mail&bodySHA256=abc"
		require.Contains(t, appended.post(t, r.ready.HTTPURL, `{"value":1}`, 200), `"outcome":"settled"`)
	})
}

// testRawToken posts a form to a callback URL whose token takes the whole body as the value.
func testRawToken(t *testing.T, r *runner) {
	status, created := r.call(t, "POST", "/promises", fmt.Sprintf(
		`{"workflowExecutionId":%q,"name":"form","tokens":{"verbs":["resolve"],"ttlSeconds":600,"body":"raw"}}`, uuid.NewString()))
	require.Equal(t, 201, status, created)
	id := created["promiseId"].(string)
	resp, err := http.PostForm(strings.Replace(created["resolveUrl"].(string), "/resolve?token=", "/resolve/", 1),
		url.Values{"status": {"paid"}, "item": {"book", "pen & ink"}})
	require.NoError(t, err)
	resp.Body.Close()
	require.Equal(t, 200, resp.StatusCode)
	_, promise := r.call(t, "GET", "/promises/id:"+id, "")
	require.Equal(t, map[string]any{"status": "paid", "item": []any{"book", "pen & ink"}}, promise["value"])
}

// testPrintedCommands runs the commands that the runner has printed in a shell.
func testPrintedCommands(t *testing.T, r *runner) {
	skip.Without(t, "curl", "which the printed commands call")
	welcome := r.stdout.String()
	require.Contains(t, welcome, "  API key      "+r.ready.APIKey+"\n")
	commands := regexp.MustCompile(`(?m)^  curl (?:.*\\\n)*.*\n`).FindAllString(welcome, -1)
	require.Len(t, commands, 2, welcome)
	for i, want := range []string{`"created":true`, `"outcome":"settled"`} {
		out, err := exec.CommandContext(t.Context(), "sh", "-c", commands[i]).CombinedOutput()
		require.NoError(t, err, "%s", out)
		require.Contains(t, string(out), want)
	}
}

// testManageTenantsCommand runs the binary of manage-tenants on the runner's database.
func testManageTenantsCommand(t *testing.T, r *runner) {
	binary := filepath.Join(t.TempDir(), "manage-tenants")
	build := exec.CommandContext(t.Context(), "go", "build", "-tags", "lambda.norpc", "-trimpath", "-ldflags", "-s -w",
		"-o", binary, "../../functions/manage-tenants")
	build.Env = append(os.Environ(), "CGO_ENABLED=0") // with the runner's settings, so that the build cache has it
	out, err := build.CombinedOutput()
	require.NoError(t, err, "%s", out)

	manage := func(t *testing.T, code int, args ...string) (answer struct {
		Slug, Tenant, APIKey, KeyID string
		Created                     bool
		Keys, Tenants               []map[string]any
	}, stderr string) {
		t.Helper()
		var stdout, errors buffer
		cmd := exec.CommandContext(t.Context(), binary, args...)
		cmd.Env = append(os.Environ(), "DATABASE_URL="+r.ready.DatabaseURL, "SIGNING_KEY=", "TOKEN_KEYS=", "PUBLIC_URL=", "LOG_LEVEL=debug")
		cmd.Stdout, cmd.Stderr = &stdout, &errors
		cmd.Run() //nolint:errcheck // the test reads ExitCode
		require.Equal(t, code, cmd.ProcessState.ExitCode(), "%v: %s%s", args, &stdout, &errors)
		if code == 0 {
			require.NoError(t, json.Unmarshal([]byte(stdout.String()), &answer), "%s", &stdout)
			require.NotContains(t, errors.String(), "prk_")
		} else {
			require.Empty(t, stdout.String())
		}
		return answer, errors.String()
	}
	t.Run("create", func(t *testing.T) {
		made, _ := manage(t, 0, "create", "acme")
		require.Equal(t, "acme", made.Slug)
		require.True(t, made.Created)
	})
	t.Run("create again", func(t *testing.T) {
		again, _ := manage(t, 0, "create", "acme")
		require.False(t, again.Created)
	})
	t.Run("list", func(t *testing.T) {
		tenants, _ := manage(t, 0, "list")
		require.Len(t, tenants.Tenants, 2)
	})
	creator, _ := manage(t, 0, "create-key", "acme", "shell", "create", time.Now().Add(time.Hour).UTC().Format(time.RFC3339))
	t.Run("create-key", func(t *testing.T) { require.True(t, auth.CheckAPIKey(creator.APIKey)) })
	t.Run("list-keys shows no secret", func(t *testing.T) {
		keys, _ := manage(t, 0, "list-keys", "acme")
		require.Len(t, keys.Keys, 1)
		require.NotContains(t, fmt.Sprint(keys), "prk_")
	})
	t.Run("an invalid slug", func(t *testing.T) {
		_, why := manage(t, 1, "create", "Acme")
		require.Contains(t, why, "slug: ")
	})
	t.Run("an unknown tenant", func(t *testing.T) {
		_, why := manage(t, 1, "create-key", "nobody", "shell", "create")
		require.NotContains(t, why, "prk_")
	})
	for name, args := range map[string][]string{"no arguments": {}, "an unknown action": {"remove", "acme"}, "too many arguments": {"create", "acme", "more"}} {
		t.Run(name, func(t *testing.T) {
			_, why := manage(t, 2, args...)
			require.Contains(t, why, "usage: manage-tenants")
		})
	}

	acme := r.ready.HTTPURL + "/api/tenants/acme/promises"
	body := fmt.Sprintf(`{"workflowExecutionId":%q,"name":"payment","idempotencyKey":"k"}`, uuid.NewString())
	t.Run("the API key creates a promise", func(t *testing.T) {
		status, text := request(t, "POST", acme, "Bearer "+creator.APIKey, body)
		require.Equal(t, 201, status, text)
	})
	t.Run("the API key lacks the scope to settle", func(t *testing.T) {
		status, text := request(t, "POST", acme+"/key:k/resolve", "Bearer "+creator.APIKey, `{"value":1}`)
		require.Equal(t, 403, status, text)
	})
	for name, c := range map[string][2]string{
		"the demo tenant's key gets 404 for acme": {acme, r.ready.APIKey}, "acme's key gets 404 for the demo tenant": {r.promises("/promises"), creator.APIKey},
	} {
		t.Run(name, func(t *testing.T) {
			status, text := request(t, "POST", c[0], "Bearer "+c[1], body)
			require.Equal(t, 404, status, text)
		})
	}
	t.Run("revoke-key with an unknown word", func(t *testing.T) {
		_, why := manage(t, 2, "revoke-key", "acme", creator.KeyID, "token")
		require.Contains(t, why, "Write tokens, or nothing.")
	})
	for _, args := range [][]string{{}, {"tokens"}} {
		t.Run("revoke-key "+strings.Join(args, ""), func(t *testing.T) {
			manage(t, 0, append([]string{"revoke-key", "acme", creator.KeyID}, args...)...)
			keys, _ := manage(t, 0, "list-keys", "acme")
			require.Contains(t, keys.Keys[0], "revokedAt")
			require.Equal(t, len(args) > 0, keys.Keys[0]["tokensRevokedAt"] != nil)
		})
	}
	t.Run("suspend and resume", func(t *testing.T) {
		manage(t, 0, "suspend", "acme")
		manage(t, 0, "resume", "acme")
	})
}

// A revoked API key stops working soon and for good, even if it is in constant use. TestRevocationTakesLessThanAMinute adds up the
// cache lifetimes and so proves the limit of one minute. Tests with their own clocks cover each lifetime.
func TestRevokedKey(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		skip.Now(t, "it takes a minute, and -short was asked for")
	}
	r := startRunner(t)
	out := r.lambda(t, "manage-tenants", `{"action":"create-key","tenant":"demo","name":"short-lived","scopes":["read"]}`)
	require.Nil(t, out.FunctionError, "%s", out.Payload)
	var key struct{ KeyID, APIKey string }
	require.NoError(t, json.Unmarshal(out.Payload, &key))
	get := func(scheme string) int {
		status, _ := request(t, "GET", r.promises("/promises"), scheme+" "+key.APIKey, "")
		return status
	}
	require.Equal(t, 200, get("Bearer"))
	out = r.lambda(t, "manage-tenants", fmt.Sprintf(`{"action":"revoke-key","tenant":"demo","keyId":%q}`, key.KeyID))
	revoked := time.Now()
	require.Nil(t, out.FunctionError, "%s", out.Payload)

	// In the worst case the HTTP API caches a decision just before the authorizer's own cached answer expires. The API caches
	// each spelling of Bearer separately, so the test starts to use a new spelling every two seconds.
	alive := []string{"Bearer"}
	var last time.Duration // the start of the last call that was allowed: about 30 s, and more on a busy machine
	for n := 1; len(alive) > 0; n++ {
		if n%2 == 0 && n < 60 {
			alive = append(alive, spelling("bearer", n/2))
		}
		alive = slices.DeleteFunc(alive, func(scheme string) bool {
			begun := time.Since(revoked)
			status := get(scheme)
			if status == 200 {
				last = begun
			}
			return status == 403
		})
		require.Less(t, time.Since(revoked), 5*time.Minute, "neither allowed nor refused: %s", &r.stderr)
		time.Sleep(time.Second)
	}
	t.Logf("the last allowed call began %v after the revocation", last)
	for range 20 {
		require.Equal(t, 403, get("Bearer"), "it stays refused")
	}
	status, _ := r.call(t, "GET", "/promises", "")
	require.Equal(t, 200, status, "the other key still works")
	r.stop(t, syscall.SIGINT)
}

// spelling returns the word with a capital letter for each set bit.
func spelling(word string, bits int) string {
	b := []byte(word)
	for i := range b {
		b[i] -= byte(bits>>i&1) * ('a' - 'A')
	}
	return string(b)
}

// The Invoke API asks for no credential, so it must refuse requests that a page in a browser sends to loopback.
func TestBrowserPagesCannotInvoke(t *testing.T) {
	t.Parallel()
	called := false
	h := rejectBrowserPages(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { called = true }))
	for name, c := range map[string]struct {
		host, origin string
		want         bool
	}{
		"an IPv4 address":          {"127.0.0.1:3001", "", true},
		"an IPv6 address":          {"[::1]:3001", "", true},
		"localhost":                {"localhost:3001", "", true},
		"localhost without a port": {"localhost", "", true},
		"a page":                   {"127.0.0.1:3001", "https://example.com", false},
		"a page of origin null":    {"127.0.0.1:3001", "null", false},
		"a name that leads here":   {"example.com:3001", "", false},
		"no host":                  {"", "", false},
	} {
		t.Run(name, func(t *testing.T) {
			called = false
			req := httptest.NewRequest("POST", "/2015-03-31/functions/manage-tenants/invocations", nil)
			req.Host = c.host
			if c.origin != "" {
				req.Header.Set("Origin", c.origin)
			}
			h.ServeHTTP(httptest.NewRecorder(), req)
			require.Equal(t, c.want, called)
		})
	}
}

// A release with fewer scopes stored an API key without the new scope. The runner then creates another key, and the old one stays
// valid with its scopes.
func TestStoredKeyWithoutAScope_RunnerMakesANewKey(t *testing.T) {
	t.Parallel()
	data := filepath.Join(tempFolder(t), "data")
	first := startWith(t, "", []string{localBinary}, "--data", data).awaitReady(t)
	out := first.lambda(t, "manage-tenants", `{"action":"create-key","tenant":"demo","name":"old","scopes":["create","settle","read"]}`)
	require.Nil(t, out.FunctionError, "%s", out.Payload)
	var old struct{ APIKey string }
	require.NoError(t, json.Unmarshal(out.Payload, &old))
	id := first.create(t, "k")
	status, body := request(t, "DELETE", first.promises("/promises/id:"+id), "Bearer "+old.APIKey, "")
	require.Equal(t, 403, status, body)
	first.stop(t, syscall.SIGINT)
	require.NoError(t, os.WriteFile(filepath.Join(data, apiKeyFile), []byte(old.APIKey+"\n"), 0o600))

	second := startWith(t, "", []string{localBinary}, "--data", data).awaitReady(t)
	t.Run("the new key is stored", func(t *testing.T) {
		require.NotEqual(t, old.APIKey, second.ready.APIKey)
		requireSecrets(t, data, second.ready.APIKey)
	})
	t.Run("the new key cannot delete a pending promise", func(t *testing.T) {
		status, problem := second.call(t, "DELETE", "/promises/id:"+id, "")
		require.Equal(t, 409, status)
		require.Equal(t, "conflict", problem["code"])
	})
	status, _ = second.call(t, "POST", "/promises/id:"+id+"/resolve", `{"value":"secret"}`)
	require.Equal(t, 200, status)
	t.Run("the new key deletes a settled promise", func(t *testing.T) {
		status, erased := second.call(t, "DELETE", "/promises/id:"+id, "")
		require.Equal(t, 200, status)
		require.NotContains(t, erased, "value")
		require.NotEmpty(t, erased["erasedAt"])
	})
	t.Run("the old key still reads", func(t *testing.T) {
		status, body := request(t, "GET", second.promises("/promises/id:"+id), "Bearer "+old.APIKey, "")
		require.Equal(t, 200, status, body)
		require.NotContains(t, body, "secret")
	})
	second.stop(t, syscall.SIGINT)
}
