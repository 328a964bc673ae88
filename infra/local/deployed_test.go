package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/infra/build"
	"github.com/flovyn/promises/infra/local/httpapi"
	"github.com/flovyn/promises/infra/local/lambda"
	"github.com/flovyn/promises/shared/dbtest"
	"github.com/flovyn/promises/shared/dbtest/rdstest"
	"github.com/flovyn/promises/shared/dbtest/secrettest"
	"github.com/flovyn/promises/shared/routes"
)

// deployment is the service as it is deployed: each function in its own process, connecting to what stands in for RDS
// Proxy with IAM tokens, as the role that it has in production, in the query mode that it has there.
type deployment struct {
	db      *dbtest.DB
	proxy   *rdstest.Proxy
	secrets *secrettest.Manager
	fns     []lambda.Function
	service *lambda.Service
	api     *httptest.Server
	output  buffer
	answers chan map[string]any // what CloudFormation is told
	refuse  func() bool         // whether it does not listen
}

func deploy(t *testing.T) *deployment {
	t.Helper()
	d := &deployment{db: dbtest.Bare(t), answers: make(chan map[string]any, 100), refuse: func() bool { return false }}
	d.proxy = rdstest.Start(t, d.db.URL, rdstest.Options{})
	dir := t.TempDir()
	require.NoError(t, build.Functions(t.Context(), dir, build.Target{}))
	d.secrets = secrettest.Start(t, signingKeyARN, tokenKeysARN)
	fns := functions(dir, map[string]string{
		"DB_IAM_AUTH": "true", "DB_EXEC_MODE": "", "SIGNING_KEY": signingKeyARN, "TOKEN_KEYS": tokenKeysARN, "RETENTION_DAYS": "1",
		"PUBLIC_URL": "https://promises.example.com", "MAX_VALUE_BYTES": "", "LOG_LEVEL": "",
	})
	for i, f := range routes.Functions {
		fns[i].Env = append(slices.Clone(fns[i].Env), d.secrets.Env()...)
		if f.Role != "" {
			fns[i].Env = append(fns[i].Env, "DATABASE_URL="+d.proxy.URL(f.Role, ""))
		} else {
			fns[i].Env = append(fns[i].Env, "DATABASE_URL="+d.db.URL, "DB_IAM_AUTH=false")
		}
	}
	d.fns = fns
	d.start(t)
	return d
}

// The secrets of a deployment.
var signingKeyARN, tokenKeysARN = secrettest.ARN("promises-dev/signing-key"), secrettest.ARN("promises-dev/token-keys")

// start runs the functions in processes of their own. Those that were started before go on, without new calls.
func (d *deployment) start(t *testing.T) {
	t.Helper()
	d.service = lambda.New(d.fns, lambda.Options{Output: &d.output})
	t.Cleanup(d.service.Close)
	d.api = httptest.NewServer(httpapi.New(routes.HTTP, routes.Authorizers, d.service))
	t.Cleanup(d.api.Close)
}

// cloudFormation sends the event of a custom resource, and returns the answer that was put where it wants it.
func (d *deployment) cloudFormation(t *testing.T, kind string) map[string]any {
	t.Helper()
	bucket := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		var answer map[string]any
		if err != nil || r.Method != http.MethodPut || r.Header.Get("Content-Type") != "" || len(body) > 4096 ||
			r.URL.RawQuery != "X-Amz-Signature=hunter2" || json.Unmarshal(body, &answer) != nil || d.refuse() {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		d.answers <- answer
	}))
	defer bucket.Close()
	event, err := os.ReadFile("../../events/migrate.cloudformation-" + kind + ".json")
	require.NoError(t, err)
	payload := strings.Replace(string(event), "http://127.0.0.1:9/", bucket.URL+"/", 1)
	require.Contains(t, payload, bucket.URL)
	result, err := d.service.Invoke(t.Context(), "migrate", lambda.Request{Payload: []byte(payload)})
	require.NoError(t, err)
	require.Empty(t, result.ErrorType, "%s", result.Payload)
	answer := <-d.answers
	for name, want := range map[string]string{
		"StackId": "arn:aws:cloudformation:us-east-1:123456789012:stack/promises-dev/6f1c5a10", "LogicalResourceId": "MigrateDone",
		"RequestId": "7d6a2f2e-0c40-4a56-9f0e-2c2f6f1f4a11", "PhysicalResourceId": "migration/db-ABCDEFGHIJKLMNOPQRSTUVWXYZ",
	} {
		require.Equal(t, want, answer[name])
	}
	require.NotContains(t, d.output.String(), "hunter2", "whoever knows the URL can answer")
	return answer
}

// A busy machine can take longer than a call may. Callers are told so, and repeat it, which is always safe.
const repeats = 8

// invoke calls a function directly; an error is the problem that it answers.
func (d *deployment) invoke(t *testing.T, function, payload string) (answer map[string]any, problem string) {
	t.Helper()
	for range repeats {
		result, err := d.service.Invoke(t.Context(), function, lambda.Request{Payload: []byte(payload)})
		require.NoError(t, err)
		if problem = result.ErrorType; problem == "" {
			require.NoError(t, json.Unmarshal(result.Payload, &answer), "%s", result.Payload)
		}
		if problem != "unavailable" {
			break
		}
	}
	return answer, problem
}

// http calls a route.
func (d *deployment) http(t *testing.T, method, path, credential, body string) (int, map[string]any) {
	t.Helper()
	for range repeats {
		status, answer := d.httpOnce(t, method, path, credential, body)
		if status != http.StatusServiceUnavailable {
			return status, answer
		}
	}
	require.Fail(t, "unavailable", "%s %s\n%s", method, path, d.output.String())
	return 0, nil
}

func (d *deployment) httpOnce(t *testing.T, method, path, credential, body string) (int, map[string]any) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, d.api.URL+"/api/tenants/acme"+path, bytes.NewReader([]byte(body)))
	require.NoError(t, err)
	req.Header.Set("Content-Type", "application/json")
	if credential != "" {
		req.Header.Set("Authorization", "Bearer "+credential)
	}
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	var answer map[string]any
	require.NoError(t, json.NewDecoder(resp.Body).Decode(&answer), "%s %s: %d", method, path, resp.StatusCode)
	return resp.StatusCode, answer
}

// The whole API, every function of it, with no more rights in Postgres than its role has, over IAM tokens and TLS, and
// without anything for which RDS Proxy would pin a connection.
func TestDeployed(t *testing.T) {
	d := deploy(t)
	require.Equal(t, "SUCCESS", d.cloudFormation(t, "create")["Status"])
	require.Equal(t, "SUCCESS", d.cloudFormation(t, "update")["Status"])

	must := func(function, payload string) map[string]any {
		t.Helper()
		answer, problem := d.invoke(t, function, payload)
		require.Empty(t, problem, "%s %s\n%s", function, payload, d.output.String())
		return answer
	}
	must("manage-tenants", `{"action":"create-tenant","slug":"acme"}`)
	must("manage-tenants", `{"action":"create-tenant","slug":"acme"}`)
	made := must("manage-tenants", `{"action":"create-key","tenant":"acme","name":"n","scopes":["create","settle","read"]}`)
	key := made["apiKey"].(string)
	other := must("manage-tenants", `{"action":"create-key","tenant":"acme","name":"o","scopes":["read"]}`)
	must("manage-tenants", `{"action":"list-tenants"}`)
	must("manage-tenants", `{"action":"list-keys","tenant":"acme"}`)
	must("manage-tenants", `{"action":"revoke-key","tenant":"acme","keyId":"`+other["keyId"].(string)+`","tokens":true}`)
	must("manage-tenants", `{"action":"suspend-tenant","slug":"acme"}`)
	must("manage-tenants", `{"action":"resume-tenant","slug":"acme"}`)

	const workflow = "0b5c1f4e-6a0e-4f0a-9c58-2d1a3c7e9b10"
	n := 0
	create := func(more string) map[string]any {
		t.Helper()
		n++
		status, p := d.http(t, "POST", "/promises", key, fmt.Sprintf(`{"workflowExecutionId":"%s","name":"p%d"%s}`, workflow, n, more))
		require.Contains(t, []int{201, 200}, status, "%v\n%s", p, d.output.String())
		return p
	}
	id := func(p map[string]any) string { return "id:" + p["promiseId"].(string) }
	want := func(outcome string) func(int, map[string]any) {
		return func(status int, answer map[string]any) {
			t.Helper()
			require.Less(t, status, 300, "%v\n%s", answer, d.output.String())
			if answer["outcome"] == "duplicate" { // of a call that was repeated
				answer["outcome"] = "settled"
			}
			require.Equal(t, outcome, answer["outcome"])
		}
	}
	const one, two, no = `{"value":1}`, `{"value":2}`, `{"error":"no"}`
	p := create(`,"idempotencyKey":"k1","timeoutMs":3600000,"tokens":{"verbs":["resolve","reject"],"ttlSeconds":600}`)
	status, _ := d.http(t, "POST", "/promises", key, `{"workflowExecutionId":"`+workflow+`","name":"p1","idempotencyKey":"k1"}`)
	require.Equal(t, 200, status)
	status, _ = d.http(t, "POST", "/promises", key, `{"workflowExecutionId":"`+workflow+`","name":"thief","idempotencyKey":"k1"}`)
	require.Equal(t, 409, status)
	status, _ = d.http(t, "POST", "/promises/"+id(p)+"/extend", key, `{"timeoutMs":7200000}`)
	require.Equal(t, 200, status)
	status, _ = d.http(t, "POST", "/promises/key:k1/extend", key, `{"timeoutMs":7200000}`)
	require.Equal(t, 200, status)
	want("settled")(d.http(t, "POST", "/promises/"+id(p)+"/resolve", p["token"].(string), one))
	want("settled")(d.http(t, "POST", "/promises/key:k1/resolve", key, one))
	want("conflict")(d.http(t, "POST", "/promises/"+id(p)+"/reject", key, no))
	p = create(`,"tokens":{"verbs":["reject"],"ttlSeconds":600}`)
	status, answer := d.http(t, "POST", "/callbacks/"+id(p)+"/reject?token="+p["token"].(string), "", no)
	require.Equal(t, 200, status, "%v\n%s", answer, d.output.String())
	require.True(t, answer["outcome"] == "settled" || len(answer) == 1 && answer["alreadyResolved"] == true, "%v", answer)
	status, _ = d.http(t, "POST", "/promises/"+id(p)+"/revoke-tokens", key, "")
	require.Equal(t, 200, status, d.output.String())
	status, _ = d.http(t, "POST", "/promises/"+id(p)+"/reject", p["token"].(string), no)
	require.Equal(t, 403, status, "revoked before it was looked up there")
	p = create("")
	want("settled")(d.http(t, "POST", "/promises/"+id(p)+"/cancel", key, ""))
	want("cancelled")(d.http(t, "POST", "/promises/"+id(p)+"/resolve", key, one))
	want("held")(d.http(t, "POST", "/promises/key:early/resolve", key, `{"value":1,"holdSeconds":600}`))
	want("conflict")(d.http(t, "POST", "/promises/key:early/reject", key, `{"error":"no","holdSeconds":600}`))
	require.Equal(t, "resolved", create(`,"idempotencyKey":"early"`)["state"])
	p = create(`,"timeoutMs":0,"onTimeout":{"resolve":7}`)
	want("timed_out")(d.http(t, "POST", "/promises/"+id(p)+"/resolve", key, one))
	p = create(`,"timeoutMs":300,"idempotencyKey":"late"`)
	q := create("")
	status, batch := d.http(t, "POST", "/promises/batch-resolve", key,
		`{"items":[{"identifier":"`+id(q)+`","value":1},{"identifier":"key:k1","error":"no"},{"identifier":"key:none","value":1}]}`)
	require.Equal(t, 200, status)
	require.Len(t, batch["results"], 3)
	time.Sleep(400 * time.Millisecond)
	want("timed_out")(d.http(t, "POST", "/promises/key:late/reject", key, no))
	for _, path := range []string{
		"/promises/" + id(p), "/promises/key:k1", "/promises/" + id(p) + "/wait?waitSeconds=1",
		"/promises/" + id(create("")) + "/wait?waitSeconds=1", "/workflows/" + workflow + "/events/wait", "/promises", "/promises?state=pending",
		"/promises?state=timed_out&workflowExecutionId=" + workflow, "/promises?state=pending&timeoutBefore=2030-01-01T00:00:00Z",
		"/promises?workflowExecutionId=" + workflow + "&name=p1",
		"/workflows/" + workflow + "/events", "/workflows/" + workflow + "/events?after=3&limit=2",
	} {
		status, answer := d.http(t, "GET", path, key, "")
		require.Equal(t, 200, status, "%s: %v\n%s", path, answer, d.output.String())
	}

	// Directly, with races.
	pending := must("create-promise", `{"tenant":"acme","workflowExecutionId":"`+workflow+`","name":"race","idempotencyKey":"race"}`)
	var wg sync.WaitGroup
	outcomes := make([]string, 12)
	for i := range outcomes {
		wg.Go(func() {
			function, payload := "resolve-by-key", fmt.Sprintf(`{"tenant":"acme","key":"race","value":%d}`, i)
			switch i % 3 {
			case 0:
				function, payload = "resolve-by-id", fmt.Sprintf(`{"tenant":"acme","promiseId":"%s","value":%d}`, pending["promiseId"], i)
			case 1:
				function, payload = "reject", fmt.Sprintf(`{"tenant":"acme","key":"race","error":"%d"}`, i)
			}
			answer, _ := d.invoke(t, function, payload)
			outcomes[i], _ = answer["outcome"].(string)
		})
	}
	wg.Wait()
	won := 0
	for _, outcome := range outcomes {
		require.Contains(t, []string{"settled", "duplicate", "conflict"}, outcome, d.output.String())
		if outcome != "conflict" { // each has a value of its own: a duplicate is a call that was repeated
			won++
		}
	}
	require.Equal(t, 1, won)
	must("cancel-promise", `{"tenant":"acme","promiseId":"`+must("create-promise", `{"tenant":"acme","workflowExecutionId":"`+workflow+`","name":"c"}`)["promiseId"].(string)+`"}`)

	// The sweep: deadlines, keys, held settlements, retention.
	must("reject", `{"tenant":"acme","key":"never","error":"no","holdSeconds":1}`)
	must("create-promise", `{"tenant":"acme","workflowExecutionId":"`+workflow+`","name":"due","timeoutMs":1}`)
	must("create-promise", `{"tenant":"acme","workflowExecutionId":"7d9f1f3a-3c1e-4e5b-8a57-0c2f6f1f4a11","name":"old","idempotencyKey":"old","timeoutMs":0}`)
	d.db.Exec(t, "UPDATE idempotency_key SET expires_at = NOW() - INTERVAL '1 minute', check_at = NOW() WHERE key = 'k1'")
	d.db.Rewrite(t, "UPDATE promise SET resolved_at = NOW() - INTERVAL '8 days' WHERE id = (SELECT promise_id FROM idempotency_key WHERE key = 'k1')")
	time.Sleep(time.Second)
	first := must("expire-promises", `{"once":true}`)
	d.db.Rewrite(t, `UPDATE promise SET created_at = created_at - INTERVAL '3 days', resolved_at = resolved_at - INTERVAL '3 days',
		timeout_at = timeout_at - INTERVAL '3 days' WHERE name = 'old'`)
	d.db.Exec(t, "UPDATE workflow_event_row SET created_at = created_at - INTERVAL '3 days' WHERE workflow_execution_id = '7d9f1f3a-3c1e-4e5b-8a57-0c2f6f1f4a11'")
	second := must("expire-promises", `{"once":true}`)
	for _, what := range []string{"expired", "keysDeleted", "holdsExpired"} {
		require.Positive(t, first[what], "%s: %v\n%s", what, first, d.output.String())
	}
	for _, what := range []string{"promisesDeleted", "eventsDeleted", "workflowsDeleted"} {
		require.Positive(t, second[what], "%s: %v\n%s", what, second, d.output.String())
	}

	require.NotContains(t, d.output.String(), "42501")
	require.NotContains(t, d.output.String(), "permission denied")
	require.Empty(t, d.proxy.Refusals())
	require.Empty(t, d.proxy.Pins())
	require.Greater(t, len(d.proxy.Tokens()), len(routes.Functions)-3, "each function has proved who it is")
	require.Equal(t, "SUCCESS", d.cloudFormation(t, "delete")["Status"])
	_, found := d.http(t, "GET", "/promises/key:race", key, "")
	require.NotEqual(t, "pending", found["state"], "to delete the resource deletes nothing")
}

// A migration that fails fails the deployment, with the reason; and what CloudFormation did not hear it is told again.
func TestMigrationOfADeployment(t *testing.T) {
	d := deploy(t)
	d.db.Exec(t, "CREATE TABLE promise (id INT)")
	answer := d.cloudFormation(t, "create")
	require.Equal(t, "FAILED", answer["Status"])
	require.Contains(t, answer["Reason"], "promise")
	require.Contains(t, d.output.String(), "migration failed")
	d.db.Exec(t, "DROP TABLE promise")
	refused := 0
	d.refuse = func() bool { refused++; return refused < 3 }
	require.Equal(t, "SUCCESS", d.cloudFormation(t, "update")["Status"])
	require.Equal(t, 3, refused)

	d.refuse = func() bool { return true }
	event, err := os.ReadFile(filepath.Join("..", "..", "events", "migrate.cloudformation-delete.json"))
	require.NoError(t, err)
	nobody := strings.Replace(string(event), "http://127.0.0.1:9/", "http://127.0.0.1:1/", 1)
	result, err := d.service.Invoke(t.Context(), "migrate", lambda.Request{Payload: []byte(nobody)})
	require.NoError(t, err)
	require.NotEmpty(t, result.ErrorType, "Lambda must repeat the call")
	require.NotContains(t, string(result.Payload)+d.output.String(), "hunter2")
}
