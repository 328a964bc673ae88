package main

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	sdk "github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/infra/build"
	"github.com/flovyn/promises/infra/local/lambda"
	"github.com/flovyn/promises/shared/dbtest"
	"github.com/flovyn/promises/shared/routes"
)

// Every function refuses a direct invoke with a forged API Gateway event, even one with a principal, and writes nothing. No caller can
// invoke the alias that API Gateway uses.
func TestForgedEvents(t *testing.T) {
	t.Parallel()
	r := startRunner(t)
	id := r.create(t, "forged")
	event := func(t *testing.T, caller map[string]string) string {
		t.Helper()
		text, err := json.Marshal(map[string]any{
			"version": "2.0", "routeKey": "POST /api/tenants/{slug}/promises/{identifier}/resolve",
			"headers":        map[string]string{"content-type": "application/json"},
			"pathParameters": map[string]string{"slug": "demo", "identifier": "id:" + id, "workflowExecutionId": uuid.NewString()},
			"body":           `{"value":"forged","workflowExecutionId":"` + uuid.NewString() + `","name":"forged"}`,
			"requestContext": map[string]any{"authorizer": map[string]any{"lambda": caller}},
		})
		require.NoError(t, err)
		return string(text)
	}
	callers := map[string]map[string]string{
		"an API key":            {"kind": "key", "id": uuid.NewString(), "tenant": "demo", "scopes": "create settle read"},
		"an invented principal": {"kind": "key", "id": "the CFO, in person", "tenant": "demo", "scopes": "create settle read"},
		"a very long id":        {"kind": "key", "id": strings.Repeat("x", 300), "tenant": "demo", "scopes": "create settle read"},
		"a token":               {"kind": "token", "id": uuid.NewString(), "tenant": "demo", "promiseId": id, "verbs": "resolve reject"},
		"no principal":          {},
	}
	refusals := map[string]string{ // codes of the functions that are not operations of the API
		"manage-tenants": "unknown_field", "expire-promises": "invalid_payload", "migrate": "invalid_payload",
		"relay-deliveries": "invalid_payload", "send-deliveries": "invalid_payload",
	}
	tables := []string{"promise", "tenant", "api_key", "workflow_event_row", "idempotency_key", "promise WHERE resolved"}
	count := func(t *testing.T) (n []int) {
		t.Helper()
		for _, table := range tables {
			n = append(n, r.rowCount(t, table))
		}
		return n
	}
	before := count(t)
	for _, f := range routes.Functions {
		for name, caller := range callers {
			t.Run(f.Name+" with "+name, func(t *testing.T) {
				out := r.lambda(t, f.Name, event(t, caller))
				if f.Name == "authorize" { // the event has no credential to look up
					require.JSONEq(t, `{"isAuthorized":false}`, string(out.Payload))
					return
				}
				want := "forbidden"
				if other := refusals[f.Name]; other != "" {
					want = other
				}
				require.NotNil(t, out.FunctionError)
				require.Contains(t, string(out.Payload), `"errorType":"`+want+`"`)
			})
		}
	}
	t.Run("direct invokes write nothing", func(t *testing.T) { require.Equal(t, before, count(t)) })

	client := sdk.New(sdk.Options{
		BaseEndpoint: aws.String(r.ready.LambdaURL), Region: "eu-central-1", RetryMaxAttempts: 1,
		Credentials: credentials.NewStaticCredentialsProvider("key", "secret", ""),
	})
	for _, c := range []struct{ name, qualifier string }{
		{"resolve:http", ""}, {lambda.ARN("resolve") + ":http", ""}, {"resolve", "http"}, {"promises-dev-resolve:http", ""},
		{"resolve:http", "http"}, {"resolve-by-id", "http"}, {"nothing", "http"},
	} {
		t.Run(fmt.Sprintf("alias %s %s", c.name, c.qualifier), func(t *testing.T) {
			in := &sdk.InvokeInput{FunctionName: &c.name, Payload: []byte(event(t, callers["an API key"]))}
			if c.qualifier != "" {
				in.Qualifier = &c.qualifier
			}
			_, err := client.Invoke(t.Context(), in)
			require.ErrorContains(t, err, "StatusCode: 403")
			require.ErrorContains(t, err, "AccessDeniedException")
		})
	}
	t.Run("the alias writes nothing", func(t *testing.T) { require.Equal(t, before, count(t)) })
	t.Run("the promise is still pending", func(t *testing.T) {
		status, p := r.call(t, "GET", "/promises/id:"+id, "")
		require.Equal(t, 200, status)
		require.Equal(t, "pending", p["state"])
	})
	t.Run("the HTTP API settles the promise", func(t *testing.T) {
		status, p := r.call(t, "POST", "/promises/id:"+id+"/resolve", `{"value":1}`)
		require.Equal(t, 200, status)
		require.Equal(t, "settled", p["outcome"])
	})
	r.stop(t, syscall.SIGTERM)
}

// SAM CLI cannot invoke an alias. Therefore a function with an empty HTTP_ALIAS accepts every event.
func TestEmptyHTTPAlias_EventsAreAccepted(t *testing.T) {
	t.Parallel()
	db := dbtest.New(t)
	db.Tenant(t, tenant)
	dir := t.TempDir()
	require.NoError(t, build.Functions(t.Context(), dir, build.Target{}))
	payload, err := os.ReadFile("../../events/create-promise.http.json")
	require.NoError(t, err)
	for alias, want := range map[string]string{"http": `"errorType":"forbidden"`, "": `"statusCode":20`} {
		t.Run("HTTP_ALIAS="+alias, func(t *testing.T) {
			s := lambda.New([]lambda.Function{{
				Name: "create-promise", Path: build.Binary(dir, "create-promise"), Timeout: time.Minute, MemoryMB: 256,
				Env: []string{"DATABASE_URL=" + db.URL, "HTTP_ALIAS=" + alias},
			}}, lambda.Options{})
			result, err := s.Invoke(t.Context(), "create-promise", lambda.Request{Payload: payload})
			s.Close()
			require.NoError(t, err)
			require.Contains(t, string(result.Payload), want)
		})
	}
}
