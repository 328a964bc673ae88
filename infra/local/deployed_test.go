package main

import (
	"encoding/json"
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

// TestDeployed calls every function of a deployment. Each role must have the rights that it needs, and no statement may make RDS Proxy
// pin a connection.
func TestDeployed(t *testing.T) {
	d := deploy(t)
	require.Equal(t, "SUCCESS", d.cloudFormation(t, "create")["Status"])
	t.Run("an update of the stack", func(t *testing.T) { require.Equal(t, "SUCCESS", d.cloudFormation(t, "update")["Status"]) })

	d.must(t, "manage-tenants", `{"action":"create-tenant","slug":"acme"}`)
	made := d.must(t, "manage-tenants", `{"action":"create-key","tenant":"acme","name":"n","scopes":["create","settle","read"]}`)
	a := &deployedAPI{d, made["apiKey"].(string), 0}
	t.Run("manage-tenants", func(t *testing.T) { testDeployedTenants(t, d) })
	t.Run("one promise settled by token, key and API key", a.testSettle)
	t.Run("callback URL and revoke-tokens", a.testCallback)
	t.Run("cancel", a.testCancel)
	t.Run("early settlement", a.testEarlySettlement)
	t.Run("webhooks", a.testWebhooks)
	t.Run("deadlines and batch-resolve", a.testDeadlines)
	t.Run("reads", a.testReads)
	t.Run("concurrent direct settlements", a.testRace)
	t.Run("cancel-promise, direct", func(t *testing.T) {
		p := d.must(t, "create-promise", `{"tenant":"acme","workflowExecutionId":"`+deployedWorkflow+`","name":"c"}`)
		d.must(t, "cancel-promise", `{"tenant":"acme","promiseId":"`+p["promiseId"].(string)+`"}`)
	})
	t.Run("sweep", func(t *testing.T) { testDeployedSweep(t, d) })

	t.Run("every role has the rights that it needs", func(t *testing.T) {
		require.NotContains(t, d.output.String(), "42501")
		require.NotContains(t, d.output.String(), "permission denied")
	})
	t.Run("every function connects with an IAM token", func(t *testing.T) {
		require.Empty(t, d.proxy.Refusals())
		require.Greater(t, len(d.proxy.Tokens()), len(routes.Functions)-3)
	})
	t.Run("no connection is pinned", func(t *testing.T) { require.Empty(t, d.proxy.Pins()) })
	t.Run("deleting the stack's resource deletes no data", func(t *testing.T) {
		require.Equal(t, "SUCCESS", d.cloudFormation(t, "delete")["Status"])
		_, found := d.http(t, "GET", "/promises/key:race", a.key, "")
		require.NotEqual(t, "pending", found["state"])
	})
}

const deployedWorkflow = "0b5c1f4e-6a0e-4f0a-9c58-2d1a3c7e9b10"

// A deployedAPI calls the API of the tenant acme, whose promises all belong to deployedWorkflow.
type deployedAPI struct {
	*deployment
	key     string // the API key
	created int    // promises, which are named p1, p2 and so on
}

// These are bodies of settle calls.
const value1, failure = `{"value":1}`, `{"error":"no"}`

// create creates a promise with further fields, which start with a comma.
func (a *deployedAPI) create(t *testing.T, fields string) (p map[string]any, path string) {
	t.Helper()
	a.created++
	status, p := a.http(t, "POST", "/promises", a.key, fmt.Sprintf(`{"workflowExecutionId":"%s","name":"p%d"%s}`, deployedWorkflow, a.created, fields))
	require.Contains(t, []int{201, 200}, status, "%v\n%s", p, a.output.String())
	return p, "/promises/id:" + p["promiseId"].(string)
}

// post makes a call with the API key, and requires the status.
func (a *deployedAPI) post(t *testing.T, path, body string, want int) map[string]any {
	t.Helper()
	status, answer := a.http(t, "POST", path, a.key, body)
	require.Equal(t, want, status, "%v\n%s", answer, a.output.String())
	return answer
}

// settle makes a settle call, and requires the outcome.
func (a *deployedAPI) settle(t *testing.T, path, credential, body, want string) {
	t.Helper()
	status, answer := a.http(t, "POST", path, credential, body)
	require.Less(t, status, 300, "%v\n%s", answer, a.output.String())
	if answer["outcome"] == "duplicate" { // http may have repeated the call
		answer["outcome"] = "settled"
	}
	require.Equal(t, want, answer["outcome"])
}

func testDeployedTenants(t *testing.T, d *deployment) {
	d.must(t, "manage-tenants", `{"action":"create-tenant","slug":"acme"}`)
	other := d.must(t, "manage-tenants", `{"action":"create-key","tenant":"acme","name":"o","scopes":["read"]}`)
	for _, payload := range []string{
		`{"action":"list-tenants"}`, `{"action":"list-keys","tenant":"acme"}`,
		`{"action":"revoke-key","tenant":"acme","keyId":"` + other["keyId"].(string) + `","tokens":true}`,
		`{"action":"suspend-tenant","slug":"acme"}`, `{"action":"resume-tenant","slug":"acme"}`,
	} {
		d.must(t, "manage-tenants", payload)
	}
}

func (a *deployedAPI) testSettle(t *testing.T) {
	p, path := a.create(t, `,"idempotencyKey":"k1","timeoutMs":3600000,"tokens":{"verbs":["resolve","reject"],"ttlSeconds":600}`)
	name := fmt.Sprint("p", a.created)
	t.Run("the same create again", func(t *testing.T) {
		a.post(t, "/promises", `{"workflowExecutionId":"`+deployedWorkflow+`","name":"`+name+`","idempotencyKey":"k1"}`, 200)
	})
	t.Run("another create with the key", func(t *testing.T) {
		a.post(t, "/promises", `{"workflowExecutionId":"`+deployedWorkflow+`","name":"thief","idempotencyKey":"k1"}`, 409)
	})
	t.Run("extend by id", func(t *testing.T) { a.post(t, path+"/extend", `{"timeoutMs":7200000}`, 200) })
	t.Run("extend by key", func(t *testing.T) { a.post(t, "/promises/key:k1/extend", `{"timeoutMs":7200000}`, 200) })
	a.settle(t, path+"/resolve", p["token"].(string), value1, "settled")
	t.Run("the same settlement again", func(t *testing.T) { a.settle(t, "/promises/key:k1/resolve", a.key, value1, "settled") })
	t.Run("another settlement", func(t *testing.T) { a.settle(t, path+"/reject", a.key, failure, "conflict") })
}

func (a *deployedAPI) testCallback(t *testing.T) {
	p, path := a.create(t, `,"tokens":{"verbs":["reject"],"ttlSeconds":600}`)
	status, answer := a.http(t, "POST", strings.Replace(path, "/promises/", "/callbacks/", 1)+"/reject?token="+p["token"].(string), "", failure)
	require.Equal(t, 200, status, "%v\n%s", answer, a.output.String())
	require.True(t, answer["outcome"] == "settled" || len(answer) == 1 && answer["alreadyResolved"] == true, "%v", answer)
	a.post(t, path+"/revoke-tokens", "", 200)
	status, _ = a.http(t, "POST", path+"/reject", p["token"].(string), failure)
	require.Equal(t, 403, status, "the authorizer looks the token up for the first time, after its revocation")
}

func (a *deployedAPI) testCancel(t *testing.T) {
	_, path := a.create(t, "")
	a.settle(t, path+"/cancel", a.key, "", "settled")
	a.settle(t, path+"/resolve", a.key, value1, "cancelled")
}

func (a *deployedAPI) testEarlySettlement(t *testing.T) {
	a.settle(t, "/promises/key:early/resolve", a.key, `{"value":1,"holdSeconds":600}`, "held")
	a.settle(t, "/promises/key:early/reject", a.key, `{"error":"no","holdSeconds":600}`, "conflict")
	p, _ := a.create(t, `,"idempotencyKey":"early"`)
	require.Equal(t, "resolved", p["state"])
}

// testWebhooks puts a source, and sends it webhooks before a create, after it and twice. It ends with a replay.
func (a *deployedAPI) testWebhooks(t *testing.T) {
	source := a.must(t, "manage-integrations", `{"tenant":"acme","action":"put-source","name":"ci","verifier":{"preset":"github"},
		"keyPrefix":"run:","rules":[{"key":"'run:' + string(body.run)","then":"resolve"}],"keepBody":true}`)
	url := strings.Replace(source["url"].(string), "https://promises.example.com", a.api.URL, 1)
	post := func(t *testing.T, body, want string) map[string]any {
		t.Helper()
		var answer map[string]any
		for range repeats {
			status, text, err := postWebhook(url, source["secret"].(string), body)
			require.NoError(t, err)
			require.NoError(t, json.Unmarshal(text, &answer), "%s", text)
			if status != 503 {
				break
			}
			time.Sleep(time.Second)
		}
		require.Equal(t, want, answer["outcome"], "%v\n%s", answer, a.output.String())
		return answer
	}
	post(t, `{"run":1}`, "held")
	p, _ := a.create(t, `,"idempotencyKey":"run:1"`)
	require.Equal(t, "resolved", p["state"])
	a.create(t, `,"idempotencyKey":"run:2"`)
	received := post(t, `{"run":2}`, "settled")
	require.Equal(t, received["receiptId"], post(t, `{"run":2}`, "settled")["receiptId"])
	post(t, `{"run":2,"late":true}`, "conflict")
	for _, path := range []string{"/receipts", "/receipts?source=ci&outcome=settled"} {
		status, answer := a.http(t, "GET", path, a.key, "")
		require.Equal(t, 200, status, "%v\n%s", answer, a.output.String())
		require.NotEmpty(t, answer["receipts"])
	}
	a.must(t, "manage-integrations", `{"tenant":"acme","action":"replay-receipt","receiptId":"`+received["receiptId"].(string)+`"}`)
	a.must(t, "manage-integrations", `{"tenant":"acme","action":"delete-source","name":"ci"}`)
}

func (a *deployedAPI) testDeadlines(t *testing.T) {
	_, path := a.create(t, `,"timeoutMs":0,"onTimeout":{"resolve":7}`)
	t.Run("a deadline in the past", func(t *testing.T) { a.settle(t, path+"/resolve", a.key, value1, "timed_out") })
	a.create(t, `,"timeoutMs":300,"idempotencyKey":"late"`)
	_, other := a.create(t, "")
	t.Run("batch-resolve", func(t *testing.T) {
		batch := a.post(t, "/promises/batch-resolve", `{"items":[{"identifier":"`+strings.TrimPrefix(other, "/promises/")+
			`","value":1},{"identifier":"key:k1","error":"no"},{"identifier":"key:none","value":1}]}`, 200)
		require.Len(t, batch["results"], 3)
	})
	time.Sleep(400 * time.Millisecond)
	t.Run("a deadline that has just passed", func(t *testing.T) { a.settle(t, "/promises/key:late/reject", a.key, failure, "timed_out") })
}

// testReads reads promises and events. testSettle has created the promise p1 with the key k1.
func (a *deployedAPI) testReads(t *testing.T) {
	_, settled := a.create(t, `,"timeoutMs":0`)
	_, pending := a.create(t, "")
	for _, path := range []string{
		settled, "/promises/key:k1", settled + "/wait?waitSeconds=1",
		pending + "/wait?waitSeconds=1", "/workflows/" + deployedWorkflow + "/events/wait", "/promises", "/promises?state=pending",
		"/promises?state=timed_out&workflowExecutionId=" + deployedWorkflow, "/promises?state=pending&timeoutBefore=2030-01-01T00:00:00Z",
		"/promises?workflowExecutionId=" + deployedWorkflow + "&name=p1",
		"/workflows/" + deployedWorkflow + "/events", "/workflows/" + deployedWorkflow + "/events?after=3&limit=2",
	} {
		t.Run(path, func(t *testing.T) {
			status, answer := a.http(t, "GET", path, a.key, "")
			require.Equal(t, 200, status, "%v\n%s", answer, a.output.String())
		})
	}
}

// testRace settles one promise with concurrent direct invokes, each with its own value.
func (a *deployedAPI) testRace(t *testing.T) {
	pending := a.must(t, "create-promise", `{"tenant":"acme","workflowExecutionId":"`+deployedWorkflow+`","name":"race","idempotencyKey":"race"}`)
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
			answer, _ := a.invoke(t, function, payload)
			outcomes[i], _ = answer["outcome"].(string)
		})
	}
	wg.Wait()
	won := 0
	for _, outcome := range outcomes {
		require.Contains(t, []string{"settled", "duplicate", "conflict"}, outcome, a.output.String())
		if outcome != "conflict" { // the values differ, so a duplicate is a repeated call
			won++
		}
	}
	require.Equal(t, 1, won)
}

// testDeployedSweep makes due deadlines, keys, early settlements and old promises, and runs the sweep twice. testSettle has
// created the key k1.
func testDeployedSweep(t *testing.T, d *deployment) {
	const oldWorkflow = "7d9f1f3a-3c1e-4e5b-8a57-0c2f6f1f4a11"
	d.must(t, "reject", `{"tenant":"acme","key":"never","error":"no","holdSeconds":1}`)
	d.must(t, "create-promise", `{"tenant":"acme","workflowExecutionId":"`+deployedWorkflow+`","name":"due","timeoutMs":1}`)
	d.must(t, "create-promise", `{"tenant":"acme","workflowExecutionId":"`+oldWorkflow+`","name":"old","idempotencyKey":"old","timeoutMs":0}`)
	d.db.Exec(t, "UPDATE idempotency_key SET expires_at = NOW() - INTERVAL '1 minute', check_at = NOW() WHERE key = 'k1'")
	d.db.Rewrite(t, "UPDATE promise SET resolved_at = NOW() - INTERVAL '8 days' WHERE id = (SELECT promise_id FROM idempotency_key WHERE key = 'k1')")
	time.Sleep(time.Second)
	first := d.must(t, "expire-promises", `{"once":true}`)
	d.db.Rewrite(t, `UPDATE promise SET created_at = created_at - INTERVAL '3 days', resolved_at = resolved_at - INTERVAL '3 days',
		timeout_at = timeout_at - INTERVAL '3 days' WHERE name = 'old'`)
	d.db.Exec(t, "UPDATE workflow_event_row SET created_at = created_at - INTERVAL '3 days' WHERE workflow_execution_id = '"+oldWorkflow+"'")
	second := d.must(t, "expire-promises", `{"once":true}`)
	for count, run := range map[string]map[string]any{
		"expired": first, "keysDeleted": first, "holdsExpired": first,
		"promisesDeleted": second, "eventsDeleted": second, "workflowsDeleted": second,
	} {
		t.Run(count, func(t *testing.T) { require.Positive(t, run[count], "%v\n%s", run, d.output.String()) })
	}
}

// TestDeployment_MigrationFails checks that a failed migration fails the stack, and that migrate repeats a response which CloudFormation
// rejected.
func TestDeployment_MigrationFails(t *testing.T) {
	d := deploy(t)
	t.Run("the stack fails with the reason", func(t *testing.T) {
		d.db.Exec(t, "CREATE TABLE promise (id INT)")
		answer := d.cloudFormation(t, "create")
		require.Equal(t, "FAILED", answer["Status"])
		require.Contains(t, answer["Reason"], "promise")
		require.Contains(t, d.output.String(), "migration failed")
		d.db.Exec(t, "DROP TABLE promise")
	})
	t.Run("a rejected response is repeated", func(t *testing.T) {
		refused := 0
		d.refuse = func() bool { refused++; return refused < 3 }
		require.Equal(t, "SUCCESS", d.cloudFormation(t, "update")["Status"])
		require.Equal(t, 3, refused)
	})
	t.Run("if nothing accepts the response, the function fails and Lambda repeats the call", func(t *testing.T) {
		event, err := os.ReadFile(filepath.Join("..", "..", "events", "migrate.cloudformation-delete.json"))
		require.NoError(t, err)
		closedPort := strings.Replace(string(event), "http://127.0.0.1:9/", "http://127.0.0.1:1/", 1)
		result, err := d.service.Invoke(t.Context(), "migrate", lambda.Request{Payload: []byte(closedPort)})
		require.NoError(t, err)
		require.NotEmpty(t, result.ErrorType)
		require.NotContains(t, string(result.Payload)+d.output.String(), "hunter2")
	})
}
