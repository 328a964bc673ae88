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

// A direct invoke with an event, principal and all, is refused by every function, with a route or without, and writes nothing. The
// alias that API Gateway invokes is out of a caller's reach, in each way to write it.
func TestForgedEvents(t *testing.T) {
	t.Parallel()
	r := startRunner(t)
	id := r.create(t, "forged")
	event := func(caller map[string]string) string {
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
	callers := []map[string]string{
		{"kind": "key", "id": uuid.NewString(), "tenant": "demo", "scopes": "create settle read"},
		{"kind": "key", "id": "the CFO, in person", "tenant": "demo", "scopes": "create settle read"},
		{"kind": "key", "id": strings.Repeat("x", 300), "tenant": "demo", "scopes": "create settle read"},
		{"kind": "token", "id": uuid.NewString(), "tenant": "demo", "promiseId": id, "verbs": "resolve reject"},
		{},
	}
	refusals := map[string]string{ // of those that are no operation of the API
		"manage-tenants": "unknown_field", "expire-promises": "invalid_payload", "migrate": "invalid_payload",
	}
	tables := []string{"promise", "tenant", "api_key", "workflow_event_row", "idempotency_key", "promise WHERE resolved"}
	count := func() (n []int) {
		for _, table := range tables {
			n = append(n, r.rowCount(t, table))
		}
		return n
	}
	before := count()
	for _, f := range routes.Functions {
		for _, caller := range callers {
			out := r.lambda(t, f.Name, event(caller))
			if f.Name == "authorize" { // which says whose a credential is, and there is none
				require.JSONEq(t, `{"isAuthorized":false}`, string(out.Payload))
				continue
			}
			want := "forbidden"
			if other := refusals[f.Name]; other != "" {
				want = other
			}
			require.NotNil(t, out.FunctionError, f.Name)
			require.Contains(t, string(out.Payload), `"errorType":"`+want+`"`, f.Name)
		}
	}
	require.Equal(t, before, count())

	client := sdk.New(sdk.Options{
		BaseEndpoint: aws.String(r.ready.LambdaURL), Region: "eu-central-1", RetryMaxAttempts: 1,
		Credentials: credentials.NewStaticCredentialsProvider("key", "secret", ""),
	})
	for _, c := range []struct{ name, qualifier string }{
		{"resolve:http", ""}, {lambda.ARN("resolve") + ":http", ""}, {"resolve", "http"}, {"promises-dev-resolve:http", ""},
		{"resolve:http", "http"}, {"resolve-by-id", "http"}, {"nothing", "http"},
	} {
		in := &sdk.InvokeInput{FunctionName: &c.name, Payload: []byte(event(callers[0]))}
		if c.qualifier != "" {
			in.Qualifier = &c.qualifier
		}
		_, err := client.Invoke(t.Context(), in)
		require.ErrorContains(t, err, "StatusCode: 403", fmt.Sprint(c))
		require.ErrorContains(t, err, "AccessDeniedException", fmt.Sprint(c))
	}
	require.Equal(t, before, count())
	status, p := r.call(t, "GET", "/promises/id:"+id, "")
	require.Equal(t, 200, status)
	require.Equal(t, "pending", p["state"])
	status, p = r.call(t, "POST", "/promises/id:"+id+"/resolve", `{"value":1}`)
	require.Equal(t, 200, status)
	require.Equal(t, "settled", p["outcome"], "through the HTTP API it can be settled")
	r.stop(t, syscall.SIGTERM)
}

// SAM CLI invokes no alias: with HTTP_ALIAS empty a function believes every event.
func TestEventsWithoutAnAlias(t *testing.T) {
	t.Parallel()
	db := dbtest.New(t)
	db.Tenant(t, tenant)
	dir := t.TempDir()
	require.NoError(t, build.Functions(t.Context(), dir, build.Target{}))
	payload, err := os.ReadFile("../../events/create-promise.http.json")
	require.NoError(t, err)
	for alias, want := range map[string]string{"http": `"errorType":"forbidden"`, "": `"statusCode":20`} {
		s := lambda.New([]lambda.Function{{
			Name: "create-promise", Path: build.Binary(dir, "create-promise"), Timeout: time.Minute, MemoryMB: 256,
			Env: []string{"DATABASE_URL=" + db.URL, "HTTP_ALIAS=" + alias},
		}}, lambda.Options{})
		result, err := s.Invoke(t.Context(), "create-promise", lambda.Request{Payload: payload})
		s.Close()
		require.NoError(t, err)
		require.Contains(t, string(result.Payload), want)
	}
}
