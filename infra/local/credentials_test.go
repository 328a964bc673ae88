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

// Nothing of the HTTP API answers without a credential.
func TestCredentials(t *testing.T) {
	t.Parallel()
	r := startRunner(t)
	key := r.ready.APIKey
	fill := strings.NewReplacer("{slug}", "demo", "{identifier}", "id:"+uuid.NewString(), "{workflowExecutionId}", uuid.NewString())
	garbage := []string{
		"x", "Bearer", "Bearer x", "Basic " + key, "bearer" + key, key, "Bearer " + key[:len(key)-1], "Bearer " + key + "0", "Bearer " + auth.NewKey(),
	}
	for _, route := range routes.HTTP {
		if slices.Contains(routes.SelfVerifying, route.Function) { // access_test.go has all that they refuse
			continue
		}
		at := r.ready.HTTPURL + fill.Replace(route.Path)
		for _, empty := range []string{at, at + "?token="} {
			status, body := request(t, route.Method, empty, "", "{}")
			require.Equal(t, 401, status, "%s %s", route.Method, empty)
			require.Equal(t, `{"message":"Unauthorized"}`, body)
		}
		for _, g := range garbage {
			status, body := request(t, route.Method, at, g, "{}")
			require.Equal(t, 403, status, "%s %s %q", route.Method, at, g)
			require.Equal(t, `{"message":"Forbidden"}`, body)
		}
	}
	require.NotContains(t, r.stdout.String(), "create-promise ", "no operation has run")
	require.Regexp(t, `(?m)^\S+  authorize +[0-9.]+ ms  warm  refused$`, r.stdout.String())

	id := r.create(t, "k")
	status, body := request(t, "GET", r.promises("/promises/id:"+id), "Bearer "+key, "")
	require.Equal(t, 200, status, body)
	status, body = request(t, "GET", r.ready.HTTPURL+"/api/tenants/other/promises/id:"+id, "Bearer "+key, "")
	require.Equal(t, 404, status, body)

	t.Run("token", func(t *testing.T) { onAToken(t, r) })
	t.Run("welcome", func(t *testing.T) { asItSays(t, r) })
	t.Run("shell", func(t *testing.T) { fromAShell(t, r) })
	r.stop(t, syscall.SIGINT)
}

func onAToken(t *testing.T, r *runner) {
	c := r.createWithToken(t)
	require.True(t, strings.HasPrefix(c.resolveURL, r.ready.HTTPURL+"/"), c.resolveURL)
	other := r.createWithToken(t)

	for _, method := range []string{"GET", "HEAD", "PUT"} { // mail scanners follow links
		status, body := request(t, method, c.resolveURL, "", "")
		require.Equal(t, 404, status, body)
	}
	c.post(t, r.ready.HTTPURL, `{"value":`, 400)
	rejecting := callback{path: strings.Replace(c.path, "/resolve?", "/reject?", 1)}
	rejecting.post(t, r.ready.HTTPURL, `{"error":"no"}`, 403)
	foreign := callback{path: strings.Replace(c.path, c.promiseID, other.promiseID, 1)}
	foreign.post(t, r.ready.HTTPURL, `{"value":1}`, 403)
	for _, p := range []callback{c, other} {
		_, promise := r.call(t, "GET", "/promises/id:"+p.promiseID, "")
		require.Equal(t, "pending", promise["state"])
	}

	require.Contains(t, c.post(t, r.ready.HTTPURL, `{"value":{"ok":true}}`, 200), `"outcome":"settled"`)
	require.Equal(t, `{"alreadyResolved":true}`, c.post(t, r.ready.HTTPURL, `{"value":{"ok":true}}`, 200))
	_, promise := r.call(t, "GET", "/promises/id:"+c.promiseID, "")
	require.Equal(t, map[string]any{"ok": true}, promise["value"])
	status, body := request(t, "POST", r.promises("/promises/id:"+other.promiseID+"/resolve"), "Bearer "+other.token, `{"value":1}`)
	require.Equal(t, 200, status, body)

	// Its sender appends what it likes, and sends what it likes.
	appended := r.createWithToken(t)
	appended.path += "?utm_source=mail&bodySHA256=abc"
	require.Contains(t, appended.post(t, r.ready.HTTPURL, `{"value":1}`, 200), `"outcome":"settled"`)
	status, created := r.call(t, "POST", "/promises", fmt.Sprintf(
		`{"workflowExecutionId":%q,"name":"form","tokens":{"verbs":["resolve"],"ttlSeconds":600,"body":"raw"}}`, uuid.NewString()))
	require.Equal(t, 201, status, created)
	id := created["promiseId"].(string)
	resp, err := http.PostForm(strings.Replace(created["resolveUrl"].(string), "/resolve?token=", "/resolve/", 1),
		url.Values{"status": {"paid"}, "item": {"book", "pen & ink"}})
	require.NoError(t, err)
	resp.Body.Close()
	require.Equal(t, 200, resp.StatusCode)
	_, promise = r.call(t, "GET", "/promises/id:"+id, "")
	require.Equal(t, map[string]any{"status": "paid", "item": []any{"book", "pen & ink"}}, promise["value"])
}

// asItSays runs the commands that the runner has printed, as a shell does.
func asItSays(t *testing.T, r *runner) {
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

// fromAShell manages a tenant of the runner's database.
func fromAShell(t *testing.T, r *runner) {
	binary := filepath.Join(t.TempDir(), "manage-tenants")
	build := exec.CommandContext(t.Context(), "go", "build", "-tags", "lambda.norpc", "-trimpath", "-ldflags", "-s -w",
		"-o", binary, "../../functions/manage-tenants")
	build.Env = append(os.Environ(), "CGO_ENABLED=0") // as the runner builds it: nothing is left to do
	out, err := build.CombinedOutput()
	require.NoError(t, err, "%s", out)

	manage := func(code int, args ...string) (answer struct {
		Slug, Tenant, APIKey, KeyID string
		Created                     bool
		Keys, Tenants               []map[string]any
	}, stderr string) {
		t.Helper()
		var stdout, errors buffer
		cmd := exec.CommandContext(t.Context(), binary, args...)
		cmd.Env = append(os.Environ(), "DATABASE_URL="+r.ready.DatabaseURL, "SIGNING_KEY=", "TOKEN_KEYS=", "PUBLIC_URL=", "LOG_LEVEL=debug")
		cmd.Stdout, cmd.Stderr = &stdout, &errors
		cmd.Run() //nolint:errcheck // see ExitCode
		require.Equal(t, code, cmd.ProcessState.ExitCode(), "%v: %s%s", args, &stdout, &errors)
		if code == 0 {
			require.NoError(t, json.Unmarshal([]byte(stdout.String()), &answer), "%s", &stdout)
			require.NotContains(t, errors.String(), "prk_")
		} else {
			require.Empty(t, stdout.String())
		}
		return answer, errors.String()
	}
	made, _ := manage(0, "create", "acme")
	require.Equal(t, "acme", made.Slug)
	require.True(t, made.Created)
	again, _ := manage(0, "create", "acme")
	require.False(t, again.Created)
	tenants, _ := manage(0, "list")
	require.Len(t, tenants.Tenants, 2)
	creator, _ := manage(0, "create-key", "acme", "shell", "create", time.Now().Add(time.Hour).UTC().Format(time.RFC3339))
	require.True(t, auth.CheckKey(creator.APIKey))
	keys, _ := manage(0, "list-keys", "acme")
	require.Len(t, keys.Keys, 1)
	require.NotContains(t, fmt.Sprint(keys), "prk_")

	_, why := manage(1, "create", "Acme")
	require.Contains(t, why, "slug: ")
	_, why = manage(1, "create-key", "nobody", "shell", "create")
	require.NotContains(t, why, "prk_")
	for _, args := range [][]string{{}, {"remove", "acme"}, {"create", "acme", "more"}} {
		_, why = manage(2, args...)
		require.Contains(t, why, "usage: manage-tenants")
	}

	acme := r.ready.HTTPURL + "/api/tenants/acme/promises"
	body := fmt.Sprintf(`{"workflowExecutionId":%q,"name":"payment","idempotencyKey":"k"}`, uuid.NewString())
	status, text := request(t, "POST", acme, "Bearer "+creator.APIKey, body)
	require.Equal(t, 201, status, text)
	status, text = request(t, "POST", acme+"/key:k/resolve", "Bearer "+creator.APIKey, `{"value":1}`)
	require.Equal(t, 403, status, "it has not the scope: %s", text)
	for _, c := range [][2]string{{acme, r.ready.APIKey}, {r.promises("/promises"), creator.APIKey}} {
		status, text = request(t, "POST", c[0], "Bearer "+c[1], body)
		require.Equal(t, 404, status, text)
	}
	_, why = manage(2, "revoke-key", "acme", creator.KeyID, "token")
	require.Contains(t, why, "Write tokens, or nothing.")
	for _, args := range [][]string{{}, {"tokens"}} {
		manage(0, append([]string{"revoke-key", "acme", creator.KeyID}, args...)...)
		keys, _ = manage(0, "list-keys", "acme")
		require.Contains(t, keys.Keys[0], "revokedAt")
		require.Equal(t, len(args) > 0, keys.Keys[0]["tokensRevokedAt"] != nil)
	}
	manage(0, "suspend", "acme")
	manage(0, "resume", "acme")
}

// A key that was revoked is dead soon, and for good, though it was in use all the time. That this is within a minute follows
// from how long answers are kept, which TestRevocationTakesLessThanAMinute adds up; each is tested by a clock of its own.
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

	// The worst case: the HTTP API, which keeps what it was told, was told just before the authorizer's own answer grew
	// old. To the API each spelling is another credential; a new one comes into use every two seconds.
	alive := []string{"Bearer"}
	var last time.Duration // when a call began that was let in: 30 s, or what a busy machine adds to that
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
		require.Less(t, time.Since(revoked), 5*time.Minute, "neither let in nor refused: %s", &r.stderr)
		time.Sleep(time.Second)
	}
	t.Logf("let in for the last time after %v", last)
	for range 20 {
		require.Equal(t, 403, get("Bearer"), "for good")
	}
	status, _ := r.call(t, "GET", "/promises", "")
	require.Equal(t, 200, status, "the other key is as before")
	r.stop(t, syscall.SIGINT)
}

// spelling makes those letters capitals that have a 1 in bits.
func spelling(word string, bits int) string {
	b := []byte(word)
	for i := range b {
		b[i] -= byte(bits>>i&1) * ('a' - 'A')
	}
	return string(b)
}

// A page in a browser can send requests to loopback: the Invoke API, which asks for no credential, takes none of them.
func TestPagesCannotInvoke(t *testing.T) {
	t.Parallel()
	called := false
	h := rejectBrowserPages(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { called = true }))
	for _, c := range []struct {
		host, origin string
		want         bool
	}{
		{"127.0.0.1:3001", "", true}, {"localhost:3001", "", true}, {"[::1]:3001", "", true}, {"localhost", "", true},
		{"127.0.0.1:3001", "https://example.com", false}, {"127.0.0.1:3001", "null", false}, {"example.com:3001", "", false}, {"", "", false},
	} {
		called = false
		req := httptest.NewRequest("POST", "/2015-03-31/functions/manage-tenants/invocations", nil)
		req.Host = c.host
		if c.origin != "" {
			req.Header.Set("Origin", c.origin)
		}
		h.ServeHTTP(httptest.NewRecorder(), req)
		require.Equal(t, c.want, called, "%+v", c)
	}
}

// A data folder of a release that knew fewer scopes has a key without the new one: the runner makes another, and leaves the old one as it is.
func TestAKeptKeyWithoutAScope(t *testing.T) {
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
	require.NotEqual(t, old.APIKey, second.ready.APIKey)
	requireSecrets(t, data, second.ready.APIKey)
	status, problem := second.call(t, "DELETE", "/promises/id:"+id, "")
	require.Equal(t, 409, status)
	require.Equal(t, "conflict", problem["code"])
	status, _ = second.call(t, "POST", "/promises/id:"+id+"/resolve", `{"value":"secret"}`)
	require.Equal(t, 200, status)
	status, erased := second.call(t, "DELETE", "/promises/id:"+id, "")
	require.Equal(t, 200, status)
	require.NotContains(t, erased, "value")
	require.NotEmpty(t, erased["erasedAt"])
	status, body = request(t, "GET", second.promises("/promises/id:"+id), "Bearer "+old.APIKey, "")
	require.Equal(t, 200, status, body)
	require.NotContains(t, body, "secret")
	second.stop(t, syscall.SIGINT)
}
