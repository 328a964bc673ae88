package main

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/url"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/auth"
	"github.com/flovyn/promises/shared/seal"
	"github.com/flovyn/promises/shared/webhook"
)

// planted holds secrets by their description.
type planted map[string]string

// plant returns a new random secret, which no other text contains by chance.
func (p planted) plant(what string) string {
	p[what] = "planted" + rand.Text()
	return p[what]
}

// requireAbsent checks that the text contains no secret, neither in plain text nor in a usual encoding.
func (p planted) requireAbsent(t *testing.T, where, text string) {
	t.Helper()
	for what, secret := range p {
		for form, s := range map[string]string{
			"in plain text": secret,
			"the end":       secret[len(secret)/2:],
			"in base64":     strings.TrimRight(base64.StdEncoding.EncodeToString([]byte(secret)), "=")[:len(secret)],
			"in hex":        hex.EncodeToString([]byte(secret)),
			"as a hash":     hex.EncodeToString(auth.HashAPIKey(secret)),
			"in a URL":      url.QueryEscape(secret),
		} {
			if at := strings.Index(text, s); at >= 0 {
				line := text[strings.LastIndexByte(text[:at], '\n')+1:]
				line, _, _ = strings.Cut(line, "\n")
				assert.Fail(t, "a secret in "+where, "%s (%s): %s", what, form, line)
			}
		}
	}
}

// TestNoSecretIsPrinted makes valid calls, refused calls and calls without a database at the log level debug. Neither the functions
// nor the runner print a secret.
func TestNoSecretIsPrinted(t *testing.T) {
	t.Parallel()
	const publicURL = "https://promises.example"
	secrets := planted{}
	legacy := base64.RawURLEncoding.EncodeToString([]byte(secrets.plant("legacy key, decoded") + rand.Text()))
	secrets["legacy key"] = legacy
	signing := auth.NewSigningKey().Text()
	secrets["signing key"] = signing
	secrets["signing key, encoded"] = signing[strings.Index(signing, ":")+1:]
	sealing := seal.Generate().Text()
	secrets["sealing key, encoded"] = regexp.MustCompile(seal.KeyPattern).FindString(sealing)[len("aes256-seal:"):]
	urlKey := webhook.NewURLKey().Text()
	secrets["key of URLs"] = urlKey
	data := filepath.Join(tempFolder(t), "data")
	r := startCommand(t, []string{
		"LOG_LEVEL=debug", "PUBLIC_URL=" + publicURL, "SIGNING_KEY=" + signing, "SEALING_KEYS=" + sealing, "SOURCE_URL_KEY=" + urlKey,
		"TOKEN_KEYS=k1:" + legacy,
	}, []string{localBinary}, "--data", data).awaitReady(t)
	require.NoFileExists(t, filepath.Join(data, signingKeyFile), "the signing key comes from the environment and is not stored")
	require.NoFileExists(t, filepath.Join(data, sealingKeysFile), "the sealing keys, too")
	require.NoFileExists(t, filepath.Join(data, sourceURLKeyFile), "the key of URLs, too")
	secrets["API key"] = r.ready.APIKey
	database, err := url.Parse(r.ready.DatabaseURL)
	require.NoError(t, err)
	secrets["password"], _ = database.User.Password()

	var tails strings.Builder // with the metrics, which the runner does not print
	invoke := func(function, payload string) (answer map[string]any) {
		t.Helper()
		out := r.lambda(t, function, payload)
		tail, err := base64.StdEncoding.DecodeString(aws.ToString(out.LogResult))
		require.NoError(t, err)
		tails.Write(tail)
		require.NoError(t, json.Unmarshal(out.Payload, &answer), "%s", out.Payload)
		return answer
	}
	for _, key := range []string{"reading", "revoked", "expiring"} {
		scope, expires := "create", ""
		if key == "reading" {
			scope = "read"
		}
		if key == "expiring" {
			expires = `,"expiresAt":"2100-01-01T00:00:00Z"`
		}
		answer := invoke("manage-tenants", fmt.Sprintf(`{"action":"create-key","tenant":"demo","name":%q,"scopes":[%q]%s}`, key, scope, expires))
		secrets[key+" key"] = answer["apiKey"].(string)
		if key == "revoked" {
			invoke("manage-tenants", fmt.Sprintf(`{"action":"revoke-key","tenant":"demo","keyId":%q}`, answer["keyId"]))
		}
	}
	secrets["unknown key"] = auth.NewAPIKey()
	invoke("manage-tenants", `{"action":"list-keys","tenant":"demo"}`)
	for _, invalid := range []string{
		`{"action":%q}`, `{"action":"create-tenant","slug":%q}`, `{"action":"revoke-key","tenant":"demo","keyId":%q}`,
		`{"action":"create-key","tenant":"demo","name":"n","scopes":[%q]}`, `{"action":"list-tenants","x":%q}`, `%q`,
		`{"action":"create-key","tenant":"demo","name":"n","scopes":["read"],"expiresAt":%q}`,
	} {
		invoke("manage-tenants", fmt.Sprintf(invalid, secrets["unknown key"]))
	}

	webhookSecret := "whsec_" + secrets.plant("secret of a source")
	webhookURL, _ := r.putSource(t, "ci", fmt.Sprintf(`"secret":%q,"keyPrefix":"run:","keepBody":true,"rules":[
		{"when":"has(body.run)","key":"'run:' + string(body.run)","then":"resolve"},{"key":"body.key","then":"resolve"}]`, webhookSecret))
	webhookURL = strings.Replace(webhookURL, publicURL, r.ready.HTTPURL, 1)
	for body, want := range map[string]int{
		fmt.Sprintf(`{"run":1,"card":%q}`, secrets.plant("webhook")):           200,
		fmt.Sprintf(`{"card":%q}`, secrets.plant("webhook whose rule failed")): 422,
		fmt.Sprintf(`{"run":%q`, secrets.plant("webhook that is no JSON")):     422,
	} {
		status, answer, err := postWebhook(webhookURL, webhookSecret, body)
		require.NoError(t, err)
		require.Equal(t, want, status, "%s", answer)
	}
	status, refused, err := postWebhook(webhookURL+"?token="+secrets.plant("webhook's query"), secrets.plant("wrong secret"), fmt.Sprintf(`{"card":%q}`, secrets.plant("refused webhook")))
	require.NoError(t, err)
	require.Equal(t, 401, status, "%s", refused)

	// These calls are valid.
	workflow := uuid.NewString()
	create := func(more string) map[string]any {
		t.Helper()
		status, p := r.call(t, "POST", "/promises", fmt.Sprintf(`{"workflowExecutionId":%q,"name":%q%s}`, workflow, uuid.NewString(), more))
		require.Equal(t, 201, status, p)
		return p
	}
	p := create(fmt.Sprintf(`,"idempotencyKey":"k","metadata":{%q:%q},"onTimeout":{"resolve":%q},"tokens":{"verbs":["resolve","reject"],"ttlSeconds":60}`,
		secrets.plant("metadata's field"), secrets.plant("metadata"), secrets.plant("value on timeout")))
	require.True(t, strings.HasPrefix(p["resolveUrl"].(string), publicURL+"/"), "%v", p["resolveUrl"])
	id, token := p["promiseId"].(string), p["token"].(string)
	secrets["token"] = token
	for i, part := range strings.Split(token, ".") {
		secrets["token, part "+strconv.Itoa(i)] = part
	}
	resolveURL := strings.Replace(p["resolveUrl"].(string), publicURL, r.ready.HTTPURL, 1)
	value := fmt.Sprintf(`{"value":{%q:%q},"comment":%q}`, secrets.plant("value's field"), secrets.plant("value"), secrets.plant("comment"))
	failure := fmt.Sprintf(`{"error":%q}`, secrets.plant("error"))
	reason := fmt.Sprintf(`{"reason":%q}`, secrets.plant("reason"))
	for _, at := range []string{resolveURL, strings.Replace(resolveURL, "?token=", "/", 1), resolveURL + "&" + secrets.plant("a parameter") + "=1"} {
		status, body := request(t, "POST", at, "", value)
		require.Equal(t, 200, status, body)
	}
	rejected, cancelled := create("")["promiseId"].(string), create("")["promiseId"].(string)
	var fields map[string]any
	status, fields = r.call(t, "POST", "/promises/id:"+rejected+"/reject", failure)
	require.Equal(t, 200, status, fields)
	status, fields = r.call(t, "POST", "/promises/id:"+cancelled+"/cancel", reason)
	require.Equal(t, 200, status, fields)
	for _, path := range []string{"/promises/key:k", "/promises", "/workflows/" + workflow + "/events"} {
		status, fields = r.call(t, "GET", path, "")
		require.Equal(t, 200, status, fields)
	}
	held := fmt.Sprintf(`{"value":%q,"holdSeconds":60}`, secrets.plant("held value"))
	status, fields = r.call(t, "POST", "/promises/key:held/resolve", held)
	require.Equal(t, 202, status, fields)
	direct := fmt.Sprintf(`{"tenant":"demo","promiseId":%q,"value":%q}`, id, secrets.plant("direct value"))
	invoke("resolve-by-id", direct)
	invoke("create-promise", fmt.Sprintf(`{"tenant":"demo","workflowExecutionId":%q,"name":"p","idempotencyKey":"d","metadata":%q}`,
		workflow, secrets.plant("direct metadata")))
	invoke("batch-resolve", fmt.Sprintf(`{"tenant":"demo","items":[{"identifier":"key:d","value":%q},{"identifier":"id:%s","error":%q},{"identifier":%q,"value":1}]}`,
		secrets.plant("batch value"), id, secrets.plant("batch error"), secrets.plant("batch identifier")))

	invoke("expire-promises", `{"once":true}`)
	receiver, messages := standIn(t)
	status, fields = r.call(t, "PUT", "/destinations/orders", `{"kind":"https","url":"`+receiver+`"}`)
	require.Equal(t, 201, status, fields)
	secrets["signing secret"] = strings.TrimPrefix(fields["secret"].(string), "whsec_")
	notified := create(fmt.Sprintf(`,"notify":[{"destination":"orders"},{"stepFunctions":{"taskToken":%q}},{"durableExecution":{"callbackId":%q}}]`,
		secrets.plant("task token"), secrets.plant("callback id")))["promiseId"].(string)
	status, fields = r.call(t, "POST", "/promises/id:"+notified+"/resolve", value)
	require.Equal(t, 200, status, fields)
	secrets["signature"] = strings.TrimPrefix(await(t, r, messages).header.Get("webhook-signature"), "v1,")
	for _, kind := range []string{"stepFunctions", "durableExecution"} {
		require.Eventually(t, func() bool { return strings.Contains(r.stdout.String(), "No endpoint is configured for "+kind) },
			time.Minute, 10*time.Millisecond, "%s", &r.stderr)
	}

	// These calls are refused. The test does not compare the codes.
	refusedCalls := func() {
		t.Helper()
		x := secrets.plant("a misplaced secret, " + strconv.Itoa(len(secrets)))
		credentials := []string{"", "Basic " + x, "Bearer " + x, x, "Bearer prk_" + x, "Bearer " + token + x, "Bearer " + token[:len(token)-2]}
		for what, secret := range secrets {
			if strings.HasSuffix(what, " key") && what != "API key" {
				credentials = append(credentials, "Bearer "+secret)
			}
		}
		for _, c := range credentials {
			status, body := request(t, "POST", r.promises("/promises/id:"+id+"/resolve?"+x+"="+token), c, value)
			require.GreaterOrEqual(t, status, 400, body)
		}
		for _, c := range []struct{ method, path, body string }{
			{"POST", "/callbacks/id:" + id + "/resolve?token=" + x, value},
			{"POST", "/callbacks/id:" + id + "/resolve/" + x, value},
			{"POST", "/callbacks/id:" + id + "/reject/" + token + x, failure},
			{"POST", "/callbacks/id:" + uuid.NewString() + "/resolve/" + token, value},
			{"POST", "/callbacks/id:" + id + "/resolve/" + token, `{"value":"` + x},
			{"POST", "/callbacks/id:" + id + "/resolve/" + token + "/" + token, value},
			{"POST", "/callbacks/id:" + id + "/resolve?" + x + "=" + token, value},
			{"GET", "/callbacks/id:" + id + "/resolve/" + token, ""},
			{"POST", "/callbacks/id:" + id + "/resolve?token=" + r.ready.APIKey, value},
			{"POST", "/callbacks/id:" + id + "/resolve?token=" + token + "&token=" + token, value},
			{"POST", "/callbacks/id:" + uuid.NewString() + "/resolve?token=" + token, value},
			{"POST", "/callbacks/key:" + token + "/resolve?token=" + token, value},
			{"GET", "/callbacks/id:" + id + "/resolve?token=" + token, ""},
			{"GET", "/nothing/" + token + "?token=" + token, ""},
		} {
			status, body := request(t, c.method, r.promises(c.path), "", c.body)
			if body != `{"alreadyResolved":true}` { // a call on a settled promise, with any body
				require.GreaterOrEqual(t, status, 400, body)
			}
		}
		for _, c := range []struct{ method, path, body string }{
			{"POST", "/promises/id:" + id + "/resolve?strict=true", `{"value":"` + x + `"}`},
			{"POST", "/promises/id:" + id + "/resolve?strict=" + x, value},
			{"POST", "/promises/id:" + id + "/resolve?" + x + "=1", value},
			{"POST", "/promises/" + x + "/resolve", value},
			{"POST", "/promises/id:" + x + "/resolve", value},
			{"POST", "/promises/key:" + x + "/resolve", value},
			{"POST", "/promises/key:" + x + "%00/resolve", value},
			{"POST", "/promises/id:" + id + "/resolve", `{"value":"` + x},
			{"POST", "/promises/id:" + id + "/resolve", `{"value":"` + x + `\ud800"}`},
			{"POST", "/promises/id:" + id + "/resolve", `{"` + x + `":1}`},
			{"POST", "/promises/id:" + id + "/resolve", `{"value":"` + strings.Repeat(x, 100) + `"}`},
			{"POST", "/promises/id:" + id + "/reject", `{"error":{"` + x + `":1}}`},
			{"POST", "/promises/id:" + rejected + "/cancel?strict=true", `{"reason":1,"comment":"` + x + `"}`},
			{"POST", "/promises", `{"workflowExecutionId":"` + x + `","name":"p"}`},
			{"POST", "/promises", `{"workflowExecutionId":"` + workflow + `","name":"p","metadata":"` + x + `\u0000"}`},
			{"POST", "/promises", `{"workflowExecutionId":"` + workflow + `","name":"p","timeoutAt":"` + x + `"}`},
			{"POST", "/promises", `{"workflowExecutionId":"` + workflow + `","name":"p","tokens":{"verbs":["` + x + `"]}}`},
			{"POST", "/promises/batch-resolve", `{"items":[{"identifier":"k","` + x + `":1}]}`},
			{"GET", "/promises?cursor=" + x, ""},
			{"GET", "/workflows/" + x + "/events", ""},
		} {
			status, fields := r.call(t, c.method, c.path, c.body)
			if !strings.Contains(c.body, `\u`) && !strings.Contains(c.path, "batch") { // such a call may be accepted
				require.GreaterOrEqual(t, status, 400, "%s %s: %v", c.path, c.body, fields)
			}
		}
		invoke("authorize", fmt.Sprintf(`{"version":"2.0","type":"REQUEST","identitySource":["Bearer %s"],"headers":{"authorization":"Bearer %[1]s"}}`, x))
		invoke("authorize", fmt.Sprintf(`{"identitySource":["%s","%[1]s"]}`, token))
		invoke("resolve", fmt.Sprintf(`{"tenant":"demo","promiseId":%q,"value":%q,"unknown":%q}`, id, x, x))
		invoke("resolve", fmt.Sprintf(`{"tenant":"demo","promiseId":%q,"value":%q}`, x, x))
		invoke("resolve-by-key", fmt.Sprintf(`{"tenant":"demo","key":%q,"value":%q}`, x, x))
		invoke("resolve", fmt.Sprintf(`{"tenant":"demo","promiseId":%q,"value":%q,%q:1}`, id, x, x))
		invoke("migrate", fmt.Sprintf(`{%q:%q}`, x, x))
		invoke("expire-promises", fmt.Sprintf(`{%q:%q}`, x, x))
		invoke("reject", fmt.Sprintf(`{"tenant":"demo","promiseId":%q,"error":[%q]}`, id, x))
		invoke("migrate", fmt.Sprintf(`{"dryRun":%q}`, x))
		invoke("expire-promises", fmt.Sprintf(`{"once":%q}`, x))
	}
	refusedCalls()

	// Without a database the valid calls are refused too.
	crash(t, data)
	refusedCalls()
	for _, c := range []struct{ path, body string }{
		{"/promises/id:" + id + "/resolve", value},
		{"/promises/key:held/resolve", held},
		{"/promises/id:" + rejected + "/reject", failure},
		{"/promises/id:" + cancelled + "/cancel", reason},
	} {
		status, fields := r.call(t, "POST", c.path, c.body)
		require.Equal(t, 503, status, fields)
	}
	status, body := request(t, "POST", resolveURL, "", value)
	require.Equal(t, 503, status, body)
	invoke("resolve-by-id", direct)
	invoke("manage-tenants", `{"action":"create-key","tenant":"demo","name":"n","scopes":["read"]}`)

	require.NoError(t, r.cmd.Process.Signal(syscall.SIGINT))
	<-r.exited
	screen := r.stdout.String()
	welcome := strings.Index(screen, "\nReady after ")
	rest := strings.Index(screen[welcome:], "-d '{\"value\":") + welcome // the last line of the start message
	t.Run("the start message shows only the API key", func(t *testing.T) {
		require.Equal(t, 3, strings.Count(screen[welcome:rest], r.ready.APIKey))
		secrets.requireAbsent(t, "the start message", strings.ReplaceAll(screen[welcome:rest], r.ready.APIKey, ""))
	})
	t.Run("the rest of stdout shows no secret", func(t *testing.T) {
		secrets.requireAbsent(t, "stdout", screen[:welcome]+screen[rest:])
		require.NotContains(t, screen, "?", "no query string")
	})
	t.Run("stderr shows no secret", func(t *testing.T) {
		secrets.requireAbsent(t, "stderr", r.stderr.String())
		require.Contains(t, r.stderr.String(), `"msg":"credential refused"`, "the calls have written log lines")
		require.Contains(t, r.stderr.String(), `"msg":"call failed"`)
	})
	t.Run("the functions' logs show no secret", func(t *testing.T) {
		secrets.requireAbsent(t, "the logs", tails.String())
		require.Contains(t, tails.String(), `"_aws"`)
	})
}

// crash ends a runner's Postgres with an immediate shutdown, as in a crash.
func crash(t *testing.T, data string) {
	t.Helper()
	pid, err := postmaster(data)
	require.NoError(t, err)
	require.NoError(t, syscall.Kill(pid, syscall.SIGQUIT))
}
