package main_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/infra/local/invokeapi"
	"github.com/flovyn/promises/infra/local/lambda"
	"github.com/flovyn/promises/shared/auth"
	"github.com/flovyn/promises/shared/dbtest"
	"github.com/flovyn/promises/shared/seal"
)

// shell is the path of the command as "go run" builds it, bootstrap that of the function as it is deployed.
var shell, bootstrap string

// TestMain builds the command and the function.
func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "manage-tenants-test-")
	if err != nil {
		panic(err)
	}
	shell, bootstrap = filepath.Join(dir, "manage-tenants"), filepath.Join(dir, "bootstrap")
	code := 1
	if build("-o", shell, ".") && build("-tags", "lambda.norpc", "-o", bootstrap, ".") {
		code = m.Run()
	}
	os.RemoveAll(dir)
	os.Exit(code)
}

func build(args ...string) bool {
	out, err := exec.Command("go", append([]string{"build"}, args...)...).CombinedOutput()
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s\n%v\n", out, err)
	}
	return err == nil
}

const name = "promises-prod-manage-tenants"

// A region is a Lambda API that has the function.
type region struct {
	url string

	mu     sync.Mutex
	signed []string // the Authorization headers of the calls
}

func newRegion(t *testing.T, db *dbtest.DB) *region {
	t.Helper()
	service := lambda.New([]lambda.Function{{
		Name: name, Path: bootstrap, Timeout: 10 * time.Second, MemoryMB: 256, Env: []string{"DATABASE_URL=" + db.URL},
	}}, lambda.Options{InitTimeout: time.Minute})
	t.Cleanup(service.Close)
	r := &region{}
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		r.mu.Lock()
		r.signed = append(r.signed, req.Header.Get("Authorization"))
		r.mu.Unlock()
		invokeapi.Handler{Service: service}.ServeHTTP(w, req)
	}))
	t.Cleanup(api.Close)
	r.url = api.URL
	return r
}

// An outcome is the exit code and the output of a command.
type outcome struct {
	code           int
	stdout, stderr string
}

// run runs the command with the given environment only: without DATABASE_URL, and without a home folder that has an AWS profile. It
// repeats the command if a call took too long, as on a busy machine.
func run(binary string, env []string, stdin string, args ...string) (o outcome) {
	for range 8 {
		cmd := exec.Command(binary, args...)
		cmd.Env = append([]string{"HOME=/nonexistent", "AWS_EC2_METADATA_DISABLED=true"}, env...)
		cmd.Stdin = strings.NewReader(stdin)
		var stdout, stderr bytes.Buffer
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		_ = cmd.Run() // the outcome has the exit code
		o = outcome{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
		if !strings.Contains(o.stderr, "Repeat the call") {
			break
		}
	}
	return o
}

// requireDone requires success and returns the answer.
func (o outcome) requireDone(t *testing.T) (answer map[string]any) {
	t.Helper()
	require.Zero(t, o.code, o.stderr)
	require.Empty(t, o.stderr)
	require.NoError(t, json.Unmarshal([]byte(o.stdout), &answer))
	return answer
}

// requireFailed requires the exit code, and the texts on standard error.
func (o outcome) requireFailed(t *testing.T, code int, says ...string) {
	t.Helper()
	require.Equal(t, code, o.code, "%s %s", o.stdout, o.stderr)
	require.Empty(t, o.stdout)
	for _, text := range says {
		require.Contains(t, o.stderr, text)
	}
	require.NotContains(t, o.stderr, `"level"`, "it prints no log lines")
	require.NotContains(t, o.stderr, "InvokeResponse_Error")
}

// aws returns the environment of a caller with AWS credentials.
func aws(endpoint string) []string {
	return []string{
		"AWS_ENDPOINT_URL_LAMBDA=" + endpoint, "AWS_REGION=eu-central-1",
		"AWS_ACCESS_KEY_ID=AKIDEXAMPLE", "AWS_SECRET_ACCESS_KEY=hunter2", "AWS_SESSION_TOKEN=session",
	}
}

// Every command works through the deployed function. The caller needs AWS credentials and no database. The subtests run in order.
func TestThroughTheDeployedFunction(t *testing.T) {
	t.Parallel()
	r := newRegion(t, dbtest.New(t))
	do := func(args ...string) outcome {
		return run(shell, aws(r.url), "", append([]string{"--function", name}, args...)...)
	}

	t.Run("create", func(t *testing.T) {
		require.NotEmpty(t, do("create", "acme").requireDone(t)["tenantId"])
	})
	t.Run("create of an existing tenant", func(t *testing.T) {
		require.Equal(t, false, do("create", "acme").requireDone(t)["created"])
	})
	t.Run("create-key, list-keys and revoke-key", func(t *testing.T) {
		key := do("create-key", "acme", "checkout service", "create,settle", "2099-01-01T00:00:00Z").requireDone(t)
		require.True(t, auth.CheckAPIKey(key["apiKey"].(string)))
		require.Equal(t, []any{"create", "settle"}, key["scopes"])
		require.NotEmpty(t, do("list-keys", "acme").requireDone(t)["keys"])
		require.NotEmpty(t, do("revoke-key", "acme", key["keyId"].(string)).requireDone(t)["revokedAt"])
	})
	t.Run("suspend and resume", func(t *testing.T) {
		require.NotEmpty(t, do("suspend", "acme").requireDone(t)["suspendedAt"])
		require.NotContains(t, do("resume", "acme").requireDone(t), "suspendedAt")
	})
	t.Run("list", func(t *testing.T) { require.Len(t, do("list").requireDone(t)["tenants"], 1) })
	t.Run("set-limits", func(t *testing.T) {
		limits := do("set-limits", "acme", "pending=7", "heldBytes=1000", "waits=3").requireDone(t)["limits"]
		require.Equal(t, map[string]any{"pending": 7.0, "workflowPromises": 1e6, "held": 1e4, "heldBytes": 1000.0, "waits": 3.0}, limits)
		limits = do("set-limits", "acme", "pending=default", "waits=default").requireDone(t)["limits"]
		require.Equal(t, map[string]any{"pending": 5e6, "workflowPromises": 1e6, "held": 1e4, "heldBytes": 1000.0}, limits)
	})
	t.Run("delete", func(t *testing.T) { requireDelete(t, do) })
	t.Run("a payload in a file", func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "payload.json")
		require.NoError(t, os.WriteFile(file, []byte(`{"action": "create-key", "tenant": "acme", "name": "of a file", "scopes": ["read"]}`), 0o600))
		require.Equal(t, "of a file", do("@" + file).requireDone(t)["name"])
	})
	t.Run("a payload on standard input", func(t *testing.T) {
		piped := run(shell, aws(r.url), `{"action": "create-tenant", "slug": "piped"}`, "--function", name, "@-")
		require.Equal(t, "piped", piped.requireDone(t)["slug"])
	})
	t.Run("the function's ARN, without AWS_REGION", func(t *testing.T) {
		byARN := run(shell, append(aws(r.url), "AWS_REGION="), "", "--function", "arn:aws:lambda:us-east-1:123456789012:function:"+name, "list")
		require.Len(t, byARN.requireDone(t)["tenants"], 2)
	})
	t.Run("AWS_ENDPOINT_URL", func(t *testing.T) {
		general := append(aws(r.url), "AWS_ENDPOINT_URL_LAMBDA=", "AWS_ENDPOINT_URL="+r.url)
		require.Len(t, run(shell, general, "", "--function="+name, "list").requireDone(t)["tenants"], 2)
	})
	t.Run("each call is signed for its region", func(t *testing.T) {
		r.mu.Lock()
		defer r.mu.Unlock()
		require.Contains(t, r.signed[0], "Credential=AKIDEXAMPLE/")
		require.Contains(t, r.signed[0], "/eu-central-1/lambda/aws4_request")
		require.True(t, slices.ContainsFunc(r.signed, func(s string) bool { return strings.Contains(s, "/us-east-1/lambda/aws4_request") }), "the ARN's region")
	})
}

// Destinations of every kind are put in a database. Their secrets are encrypted again with a newer key.
func TestDestinations(t *testing.T) {
	t.Parallel()
	db := dbtest.New(t)
	db.Tenant(t, "acme")
	keys := seal.Generate()
	do := func(keys *seal.Keys, args ...string) outcome {
		return run(shell, []string{"DATABASE_URL=" + db.URL, "SEALING_KEYS=" + keys.Text()}, "", args...)
	}
	t.Run("put-destination", func(t *testing.T) {
		queue := do(keys, "put-destination", "acme", "queue", "sqs", "address=https://sqs.eu-central-1.amazonaws.com/123456789012/orders", "enabled=false").requireDone(t)
		require.Equal(t, []any{"sqs", false, true}, []any{queue["kind"], queue["enabled"], queue["created"]})
		require.NotEmpty(t, do(keys, "put-destination", "acme", "orders", "https", "url=https://example.com/").requireDone(t)["secret"])
		do(keys, "put-destination", "acme", "machine", "stepFunctions", "region=eu-west-1", "roleArn=arn:aws:iam::123456789012:role/notify").requireDone(t)
		do(keys, "put-destination", "acme", "topic", "sns", "address=orders").requireFailed(t, 1, "address: address must be a topic's ARN")
		do(keys, "put-destination", "acme", "topic", "sns", "arn=orders").requireFailed(t, 2, "is not a field of a destination")
	})
	t.Run("list-destinations", func(t *testing.T) {
		require.Len(t, do(keys, "list-destinations", "acme").requireDone(t)["destinations"], 3)
	})
	rotated := keys.Rotate()
	t.Run("reencrypt", func(t *testing.T) {
		db.Exec(t, `INSERT INTO destination_secret (destination_id, version, sealed)
			SELECT d.id, n, s.sealed FROM destination d JOIN destination_secret s ON s.destination_id = d.id CROSS JOIN generate_series(2, 3) n`)
		texts := addSourceTexts(t, db, keys)
		o := do(rotated, "reencrypt")
		require.Contains(t, o.stderr, "cannot decrypt a text", "two texts belong to other versions")
		o.stderr = ""
		require.Equal(t, map[string]any{"reencrypted": 41.0, "unreadable": 2.0, "done": true}, o.requireDone(t))
		db.Exec(t, "DELETE FROM destination_secret WHERE version > 1")
		require.Equal(t, map[string]any{"reencrypted": 0.0, "unreadable": 0.0, "done": true}, do(rotated, "reencrypt").requireDone(t))
		var sealed []byte
		require.NoError(t, db.Pool.QueryRow(t.Context(), "SELECT sealed FROM destination_secret").Scan(&sealed))
		require.False(t, rotated.NeedsReseal(sealed))
		texts(rotated)
	})
	t.Run("delete-destination", func(t *testing.T) {
		require.Equal(t, true, do(rotated, "delete-destination", "acme", "orders").requireDone(t)["deleted"])
		do(rotated, "delete-destination", "acme", "orders").requireFailed(t, 1, "name: There is no such destination")
	})
}

// addSourceTexts adds a secret of a source, and kept bodies that are too large for one batch. The function that it returns requires that the ring's
// first key has sealed each of them, for the same place.
func addSourceTexts(t *testing.T, db *dbtest.DB, keys *seal.Keys) func(*seal.Keys) {
	t.Helper()
	place := func(column string, id uuid.UUID, version int, text []byte) []byte {
		sealed, err := keys.Seal(column, id.String(), version, text)
		require.NoError(t, err)
		return sealed
	}
	source, bodies := uuid.New(), make([]uuid.UUID, 39)
	db.Exec(t, "INSERT INTO source (id, tenant_id, name, definition) SELECT $1, id, 's', '{}' FROM tenant", source)
	db.Exec(t, "INSERT INTO source_secret (source_id, version, sealed) VALUES ($1, 7, $2)", source,
		place("source_secret.sealed", source, 7, []byte("whsec_source")))
	for i := range bodies {
		bodies[i] = uuid.New()
		db.Exec(t, `WITH r AS (
				INSERT INTO receipt (id, tenant_id, source_id, source_name, event, item, outcome, received_at, updated_at, expires_at)
				SELECT $1::UUID, id, $2, 's', $1::UUID::TEXT, 0, 'ignored', NOW(), NOW(), NOW() + INTERVAL '1 day' FROM tenant RETURNING id
			)
			INSERT INTO receipt_body (id, receipt_id, sealed, expires_at) SELECT $1::UUID, id, $3, NOW() + INTERVAL '1 day' FROM r`,
			bodies[i], source, place("receipt_body.sealed", bodies[i], 1, make([]byte, 1<<18)))
	}
	return func(rotated *seal.Keys) {
		t.Helper()
		requireSealed := func(column string, id uuid.UUID, version int, sql string) {
			var sealed []byte
			require.NoError(t, db.Pool.QueryRow(t.Context(), sql, id).Scan(&sealed))
			require.False(t, rotated.NeedsReseal(sealed))
			_, err := rotated.Open(column, id.String(), version, sealed)
			require.NoError(t, err)
		}
		requireSealed("source_secret.sealed", source, 7, "SELECT sealed FROM source_secret WHERE source_id = $1")
		for _, id := range bodies {
			requireSealed("receipt_body.sealed", id, 1, "SELECT sealed FROM receipt_body WHERE id = $1")
		}
	}
}

// requireDelete requires that delete is a dry run without "confirm", that it needs a suspended tenant, and that it can be repeated.
func requireDelete(t *testing.T, do func(args ...string) outcome) {
	t.Helper()
	do("create", "gone").requireDone(t)
	do("create-key", "gone", "n", "read").requireDone(t)
	dry := do("delete", "gone").requireDone(t)
	require.Equal(t, true, dry["dryRun"])
	require.Equal(t, 1.0, dry["contains"].(map[string]any)["apiKeys"])
	do("delete", "gone", "confirm").requireFailed(t, 1, "Only a suspended tenant can be deleted")
	do("suspend", "gone").requireDone(t)
	deletion := do("delete", "gone", "confirm").requireDone(t)
	require.Equal(t, true, deletion["done"])
	require.Equal(t, 1.0, deletion["deleted"].(map[string]any)["apiKeys"])
	require.Equal(t, true, do("delete", "gone", "confirm").requireDone(t)["done"], "a repeated call")
	do("create", "gone").requireFailed(t, 1, "The slug is available again at "+deletion["slugFreeAt"].(string)[:10])
	do("delete", "gone").requireFailed(t, 1, "slug: There is no such tenant")
}

// The command prints a failure of the function as plain text on standard error.
func TestFailuresOfTheDeployedFunction(t *testing.T) {
	t.Parallel()
	r := newRegion(t, dbtest.New(t))
	do := func(args ...string) outcome {
		return run(shell, aws(r.url), "", append([]string{"--function", name}, args...)...)
	}
	do("create", "acme").requireDone(t)
	const unknown = "There is no such tenant"
	const id = "9569e257-6a0e-4f0a-9c58-2d1a3c7e9b10"
	for _, c := range []struct {
		args []string
		says string
	}{
		{[]string{"create-key", "nosuch", "n", "read"}, "tenant: " + unknown},
		{[]string{"list-keys", "nosuch"}, "tenant: " + unknown},
		{[]string{"revoke-key", "nosuch", id}, "tenant: " + unknown},
		{[]string{"suspend", "nosuch"}, "slug: " + unknown},
		{[]string{"resume", "nosuch"}, "slug: " + unknown},
		{[]string{"revoke-key", "acme", id}, "keyId: The tenant has no such key"},
		{[]string{"create", "Acme!"}, "slug: "},
		{[]string{"create-key", "acme", "n", "rule"}, "scopes: "},
		{[]string{"@/nonexistent.json"}, "/nonexistent.json"},
	} {
		t.Run(strings.Join(c.args, " "), func(t *testing.T) { do(c.args...).requireFailed(t, 1, c.says) })
	}
	for _, c := range []struct {
		name  string
		env   []string
		stdin string
		args  []string
		says  string
	}{
		{"standard input is not JSON", aws(r.url), "{", []string{"--function", name, "@-"}, "standard input must contain JSON"},
		{"an unknown action", aws(r.url), `{"action":"do"}`, []string{"--function", name, "@-"}, "action: "},
		{"an unknown function", aws(r.url), "", []string{"--function", "promises-dev-nothing", "list"}, "ResourceNotFoundException"},
		{"no region", append(aws(r.url), "AWS_REGION="), "", []string{"--function", name, "list"}, "no AWS region: set AWS_REGION"},
		{"no credentials", append(aws(r.url), "AWS_ACCESS_KEY_ID="), "", []string{"--function", name, "list"}, "credentials"},
		{"no connection", aws("http://127.0.0.1:1"), "", []string{"--function", name, "list"}, "connection refused"},
	} {
		t.Run(c.name, func(t *testing.T) { run(shell, c.env, c.stdin, c.args...).requireFailed(t, 1, c.says) })
	}

	t.Run("a function error of Lambda", func(t *testing.T) {
		broken := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X-Amz-Function-Error", "Unhandled")
			w.Write([]byte(`{"errorType":"Sandbox.Timedout","errorMessage":"Task timed out after 10.00 seconds"}`)) //nolint:errcheck // the command reports it
		}))
		defer broken.Close()
		run(shell, aws(broken.URL), "", "--function", name, "list").requireFailed(t, 1, "Sandbox.Timedout: Task timed out after 10.00 seconds")
	})
	t.Run("a failed create-key is not repeated", func(t *testing.T) {
		var calls atomic.Int32
		failing := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			calls.Add(1)
			w.WriteHeader(http.StatusInternalServerError)
		}))
		defer failing.Close()
		run(shell, aws(failing.URL), "", "--function", name, "create-key", "acme", "n", "read").requireFailed(t, 1, "500")
		require.EqualValues(t, 1, calls.Load(), "a repeated create-key would create a second API key")
	})
}

// The command prints its usage for a call for help, and for invalid arguments.
func TestUsage(t *testing.T) {
	t.Parallel()
	const usage = "usage: manage-tenants [--function <name>] <command>"
	for _, help := range []string{"-h", "--help"} {
		t.Run(help, func(t *testing.T) {
			o := run(shell, nil, "", help)
			require.Zero(t, o.code)
			require.Contains(t, o.stdout, usage)
			require.Empty(t, o.stderr)
		})
	}
	for _, args := range [][]string{
		nil, {"destroy"}, {"create", "a", "b"}, {"list", "acme"}, {"@x", "y"}, {"--function"}, {"--fn", "x", "list"}, {"--function", "x"},
		{"list", "--function", "x"}, {"set-limits", "acme"}, {"set-limits", "acme", "pending"}, {"set-limits", "acme", "nothing=1"},
		{"set-limits", "acme", "pending=many"}, {"delete"}, {"delete", "acme", "please"}, {"delete", "acme", "confirm", "now"},
	} {
		t.Run("invalid: "+strings.Join(args, " "), func(t *testing.T) {
			run(shell, []string{"DATABASE_URL=postgres://u@127.0.0.1:1/x"}, "", args...).requireFailed(t, 2, usage)
		})
	}
	t.Run("neither a database nor a function", func(t *testing.T) {
		run(shell, nil, "", "list").requireFailed(t, 2, "DATABASE_URL is not set. Set it, or name the deployed Lambda: manage-tenants --function <name> <command>")
	})
	t.Run("the deployed build has no --function", func(t *testing.T) {
		run(bootstrap, aws("http://127.0.0.1:1"), "", "--function", name, "list").requireFailed(t, 1, "go run ./functions/manage-tenants")
	})
}

// With DATABASE_URL the command works in that database and without AWS.
func TestInADatabase(t *testing.T) {
	t.Parallel()
	db := dbtest.New(t)
	env := []string{"DATABASE_URL=" + db.URL}
	for name, binary := range map[string]string{"the command": shell, "the deployed function": bootstrap} {
		t.Run(name, func(t *testing.T) {
			run(binary, env, "", "create", "acme").requireDone(t)
			run(binary, env, "", "create-key", "nosuch", "n", "read").requireFailed(t, 1, "tenant: There is no such tenant")
			require.Equal(t, "acme", run(binary, env, `{"action":"resume-tenant","slug":"acme"}`, "@-").requireDone(t)["slug"])
		})
	}
	t.Run("no connection", func(t *testing.T) {
		run(shell, []string{"DATABASE_URL=postgres://u:hunter2@127.0.0.1:1/x"}, "", "list").requireFailed(t, 1, "The database is unavailable", "connection refused")
	})
	t.Run("an invalid LOG_LEVEL", func(t *testing.T) {
		run(shell, append(env, "LOG_LEVEL=loud"), "", "list").requireFailed(t, 1, "LOG_LEVEL")
	})
}
