package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/infra/local/lambda"
	"github.com/flovyn/promises/shared/routes"
)

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
