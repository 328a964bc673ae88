package main_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/infra/local/lambda"
	"github.com/flovyn/promises/shared/dbtest"
)

var binary string

// TestMain builds the function as it is deployed.
func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "migrate-test-")
	if err != nil {
		panic(err)
	}
	binary = filepath.Join(dir, "bootstrap")
	out, err := exec.Command("go", "build", "-tags", "lambda.norpc", "-o", binary, ".").CombinedOutput()
	code := 1
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s\n%v\n", out, err)
	} else {
		code = m.Run()
	}
	os.RemoveAll(dir)
	os.Exit(code)
}

type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func (b *buffer) await(t *testing.T, text string) {
	t.Helper()
	require.Eventually(t, func() bool { return strings.Contains(b.String(), text) }, time.Minute, 5*time.Millisecond, text)
}

// function is the binary, driven through the Lambda Runtime API, and a CloudFormation that takes its answers.
type function struct {
	service *lambda.Service
	output  buffer
	bucket  *httptest.Server
	answers chan map[string]any
}

func newFunction(t *testing.T, databaseURL string, env ...string) *function {
	t.Helper()
	f := &function{answers: make(chan map[string]any, 10)}
	f.service = lambda.New([]lambda.Function{{
		Name: "migrate", Path: binary, Timeout: 10 * time.Minute, MemoryMB: 256, Env: append(env, "DATABASE_URL="+databaseURL),
	}}, lambda.Options{Output: &f.output, InitTimeout: time.Minute})
	t.Cleanup(f.service.Close)
	f.bucket = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var answer map[string]any
		body, err := io.ReadAll(r.Body)
		if err != nil || r.Method != http.MethodPut || json.Unmarshal(body, &answer) != nil {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		f.answers <- answer
	}))
	t.Cleanup(f.bucket.Close)
	return f
}

func (f *function) invoke(t *testing.T, payload string) lambda.Result {
	t.Helper()
	result, err := f.service.Invoke(t.Context(), "migrate", lambda.Request{Payload: []byte(payload)})
	require.NoError(t, err)
	return result
}

type properties map[string]any

// event sends an event of the custom resource, and returns CloudFormation's side of the answer.
func (f *function) event(t *testing.T, event map[string]any) (status, physicalID, reason string) {
	t.Helper()
	event["ResponseURL"] = f.bucket.URL + "/answer?X-Amz-Signature=hunter2"
	payload, err := json.Marshal(event)
	require.NoError(t, err)
	result := f.invoke(t, string(payload))
	require.Empty(t, result.ErrorType, "%s\n%s", result.Payload, &f.output)
	answer := <-f.answers
	reason, _ = answer["Reason"].(string)
	return answer["Status"].(string), answer["PhysicalResourceId"].(string), reason
}

func (f *function) update(t *testing.T, id string, was, is properties) (status, physicalID, reason string) {
	t.Helper()
	return f.event(t, map[string]any{
		"RequestType": "Update", "RequestId": "r", "StackId": "s", "ResourceType": "Custom::Migration", "LogicalResourceId": "MigrateDone",
		"PhysicalResourceId": id, "OldResourceProperties": was, "ResourceProperties": is,
	})
}

func sample(t *testing.T, name string) map[string]any {
	t.Helper()
	text, err := os.ReadFile("../../events/migrate." + name + ".json")
	require.NoError(t, err)
	var event map[string]any
	require.NoError(t, json.Unmarshal(text, &event))
	return event
}

func of(database, guarded, snapshot string) properties {
	return properties{"ServiceToken": "arn", "Version": "v", "Database": database, "Guarded": guarded, "Snapshot": snapshot}
}

var before = properties{"ServiceToken": "arn", "Version": "v"} // of a release that sent no more

// trap is the URL of a database to which nothing may connect; it counts who does.
func trap(t *testing.T) (databaseURL string, connections *atomic.Int32) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { l.Close() })
	connections = new(atomic.Int32)
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			connections.Add(1)
			conn.Close()
		}
	}()
	return "postgres://u:s3cret@" + l.Addr().String() + "/x", connections
}

// An update that replaces a guarded database by one without its data fails, before anything is connected to.
func TestAReplacedDatabaseIsRefused(t *testing.T) {
	t.Parallel()
	databaseURL, connections := trap(t)
	f := newFunction(t, databaseURL)
	for what, c := range map[string]struct {
		id      string
		was, is properties
		says    []string
	}{
		"empty": {"migration/db-a", of("db-a", "true", ""), of("db-b", "true", ""),
			[]string{"db-a by db-b, which is empty", "undo the setting", "-c snapshot=<its name>"}},
		"guarded until now": {"migration/db-a", of("db-a", "true", ""), of("db-b", "false", ""), []string{"which is empty"}},
		"guarded from now":  {"migration/db-a", of("db-a", "false", ""), of("db-b", "true", ""), []string{"which is empty"}},
		"a boolean":         {"migration/db-a", properties{"Database": "db-a", "Guarded": true}, properties{"Database": "db-b"}, []string{"which is empty"}},
		"the snapshot is forgotten": {"migration/db-a", of("db-a", "true", "daily-1"), of("db-b", "true", ""),
			[]string{"-c snapshot is no longer set", "deploy with -c snapshot=daily-1, as before"}},
		"the same snapshot again": {"migration/db-a", of("db-a", "true", "daily-1"), of("db-b", "true", "daily-1"),
			[]string{`only the data of the snapshot "daily-1"`, "take a new snapshot of it"}},
		"after a restore":             {"migration/db-b/db-a", of("db-b", "true", "daily-1"), of("db-c", "true", ""), []string{"db-b by db-c"}},
		"an id of the release before": {"migration", of("db-a", "true", ""), of("db-b", "true", ""), []string{"which is empty"}},
	} {
		t.Run(what, func(t *testing.T) {
			status, id, reason := f.update(t, c.id, c.was, c.is)
			require.Equal(t, "FAILED", status)
			require.Equal(t, c.id, id, "another id would make CloudFormation delete the resource")
			for _, text := range append(c.says, "Nothing was migrated.", "rolls the deployment back, and the old database stays as it is") {
				require.Contains(t, reason, text)
			}
		})
	}
	status, _, reason := f.event(t, sample(t, "bad-cloudformation-replaced"))
	require.Equal(t, "FAILED", status)
	require.Contains(t, reason, "which is empty")
	require.Zero(t, connections.Load())
	require.Contains(t, f.output.String(), "migration failed")
	require.NotContains(t, f.output.String(), "hunter2")
}

// CloudFormation rolls an update back by another, from the new properties to the old: that one is let through, whether the
// update itself failed or something after it.
func TestReplacementsThatAreMeant(t *testing.T) {
	t.Parallel()
	f := newFunction(t, dbtest.Bare(t).URL)
	done := func(wantID string) func(status, id, reason string) {
		return func(status, id, reason string) {
			t.Helper()
			require.Equal(t, "SUCCESS", status, "%s\n%s", reason, &f.output)
			require.Equal(t, wantID, id)
		}
	}
	create := sample(t, "cloudformation-create")
	done("migration/db-ABCDEFGHIJKLMNOPQRSTUVWXYZ")(f.event(t, create))
	done("migration/db-ABCDEFGHIJKLMNOPQRSTUVWXYZ")(f.event(t, sample(t, "cloudformation-update")))
	done("migration/db-ABCDEFGHIJKLMNOPQRSTUVWXYZ")(f.event(t, sample(t, "cloudformation-delete")))

	a, b, empty := of("db-a", "true", ""), of("db-b", "true", "daily-1"), of("db-c", "true", "")
	done("migration/db-a")(f.update(t, "migration", before, a))
	done("migration/db-a")(f.update(t, "migration/db-a", a, a))
	done("migration/db-b/db-a")(f.update(t, "migration/db-a", a, b))
	done("migration/db-a/db-b")(f.update(t, "migration/db-b/db-a", b, a)) // it succeeded; another resource failed
	done("migration/db-a")(f.update(t, "migration/db-a", b, a))           // the same, if CloudFormation sends the old id
	done("migration/db-b/db-a")(f.update(t, "migration/db-b/db-a", b, b)) // the deployments after
	done("migration/db-d/db-b")(f.update(t, "migration/db-b/db-a", b, of("db-d", "true", "daily-2")))
	done("migration/db-b")(f.update(t, "migration", a, b)) // from a release without databases in the id

	status, id, _ := f.update(t, "migration/db-b/db-a", b, empty)
	require.Equal(t, "FAILED", status)
	done("migration/db-b/db-a")(f.update(t, id, empty, b)) // the rollback of what was refused
	again := of("db-c", "true", "daily-1")
	status, id, _ = f.update(t, "migration/db-b/db-a", b, again)
	require.Equal(t, "FAILED", status)
	done("migration/db-b/db-a")(f.update(t, id, again, b))

	done("migration/db-y/db-x")(f.update(t, "migration/db-x", of("db-x", "false", ""), of("db-y", "false", "")))
	done("migration/db-a")(f.update(t, "migration/db-a", a, before)) // back to the release before
	done("migration")(f.update(t, "migration", before, before))
}

// A payload is taken to the letter: a dry run that is misspelt must not be the real thing.
func TestPayloads(t *testing.T) {
	t.Parallel()
	databaseURL, connections := trap(t)
	f := newFunction(t, databaseURL)
	bad, err := os.ReadFile("../../events/migrate.bad-null.json")
	require.NoError(t, err)
	for _, payload := range []string{
		string(bad), `{"dryRun":null}`, `{"roles":null}`, "null", "true", "1", `"{}"`, "[]", `[{"dryRun":true}]`, "{", `{"dryRun"`, `{"dryRun":true`,
		`{"dryRun":true,}`, "{}{}", "{} x", `{"dryRun":true} {"roles":true}`, `{"dryRun":1}`, `{"dryRun":"true"}`, `{"dryRun":[]}`, `{"dryRun":{}}`,
		`{"rotateSigningKey":null}`, `{"rotateSigningKey":"true"}`, `{"rotatesigningkey":true}`, `{"rotateSigningKey":true,"revoke":1}`, `{"Revoke":true}`,
		`{"DryRun":true}`, `{"dryrun":true}`, `{"dry_run":true}`, `{"dryRun ":true}`, `{"dryRun":true,"x":1}`, `{"x":null}`, `{"":true}`,
		`{"dryRun":false,"dryRun":true}`, `{"dryRun":true,"dryRun":false}`, `{"dryRun":true,"dryRu\u006e":false}`, `{"dryRun":true,"DRYRUN":false}`,
		`{"requesttype":"Create","responseurl":"http://127.0.0.1:9/"}`, `{"RequestType":"create","ResponseURL":"http://127.0.0.1:9/"}`,
		`{"RequestType":"Create"}`, `{"RequestType":"Create","responseURL":"http://127.0.0.1:9/"}`, `{"RequestType":null,"ResponseURL":"x"}`,
		`{"RequestType":"Delete","ResponseURL":1}`, `{"RequestType":"Delete","RequestType":"Create","ResponseURL":"http://127.0.0.1:9/"}`,
		`{"RequestType":"Update","ResponseURL":"http://127.0.0.1:9/","ResourceProperties":"x"}`,
	} {
		result := f.invoke(t, payload)
		require.Equal(t, "invalid_payload", result.ErrorType, "%s: %s", payload, result.Payload)
	}
	for payload, says := range map[string]string{
		`{"dryRun":null}`:              "The field dryRun must be true or false.",
		`{"dryrun":true}`:              `unknown field "dryrun"`,
		`{"roles":true,"roles":false}`: `"roles" twice`,
		`{"dryRun":true} x`:            "nothing after it",
		`{"RequestType":"create"}`:     "Create, Update or Delete",
	} {
		var failure struct{ ErrorMessage string }
		require.NoError(t, json.Unmarshal(f.invoke(t, payload).Payload, &failure))
		require.Contains(t, failure.ErrorMessage, says)
	}
	require.Zero(t, connections.Load())
	for _, payload := range []string{`{"dryRun":true,"roles":true}`, `{"revoke":true}`, `{"rotateSigningKey":true}`, `{"dryRun":true,"rotateSigningKey":true}`} {
		require.Equal(t, "migration_failed", f.invoke(t, payload).ErrorType, payload)
	}
	require.Zero(t, connections.Load())
}

const notYet = "cannot connect to the database yet"

// A deployment waits for a database that is still starting, and the log says so.
func TestADatabaseThatIsStillStarting(t *testing.T) {
	t.Parallel()
	t.Run("a deployment", func(t *testing.T) {
		t.Parallel()
		db, late := dbtest.Bare(t), dbtest.NewLate(t)
		f := newFunction(t, late.URL(t, db.URL))
		event := sample(t, "cloudformation-create")
		event["ResponseURL"] = f.bucket.URL
		payload, err := json.Marshal(event)
		require.NoError(t, err)
		done := make(chan error, 1)
		go func() {
			_, err := f.service.Invoke(t.Context(), "migrate", lambda.Request{Payload: payload})
			done <- err
		}()
		f.output.await(t, notYet)
		late.Serve(t, db.URL)
		late.Listen(t)
		require.NoError(t, <-done)
		require.Equal(t, "SUCCESS", (<-f.answers)["Status"], "%s", &f.output)
		var migrated bool
		require.NoError(t, db.Pool.QueryRow(t.Context(), "SELECT to_regclass('promise') IS NOT NULL").Scan(&migrated))
		require.True(t, migrated)
		require.Contains(t, f.output.String(), "connection refused")
	})
	t.Run("a shell", func(t *testing.T) {
		t.Parallel()
		db, late := dbtest.Bare(t), dbtest.NewLate(t)
		cmd := exec.Command(binary)
		cmd.Env = append(os.Environ(), "DATABASE_URL="+late.URL(t, db.URL))
		var stdout bytes.Buffer
		var stderr buffer
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		require.NoError(t, cmd.Start())
		stderr.await(t, notYet)
		late.Serve(t, db.URL)
		late.Listen(t)
		require.NoError(t, cmd.Wait(), "%s", &stderr)
		require.Contains(t, stdout.String(), "00001_init.sql")
	})
	t.Run("a database that there is not", func(t *testing.T) {
		t.Parallel()
		u, err := url.Parse(dbtest.Bare(t).URL)
		require.NoError(t, err)
		u.Path = "/nowhere"
		f := newFunction(t, u.String())
		status, _, reason := f.event(t, sample(t, "cloudformation-create"))
		require.Equal(t, "FAILED", status)
		require.Contains(t, reason, "3D000")
		require.NotContains(t, f.output.String(), notYet)
	})
}

// From a shell it says what is wrong in words, and -h is no mistake.
func TestShell(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		args           []string
		databaseURL    string
		code           int
		stdout, stderr string
	}{
		{[]string{"-h"}, "", 0, "usage: migrate [-dry-run | -roles]", ""},
		{[]string{"--help"}, "", 0, "-dry-run", ""},
		{[]string{"-dryrun"}, "postgres://u@h/d", 2, "", "flag provided but not defined: -dryrun"},
		{[]string{"dry-run"}, "postgres://u@h/d", 2, "", `unexpected argument "dry-run": migrate takes flags only`},
		{nil, "", 2, "", "DATABASE_URL is not set"},
		{[]string{"-dry-run", "-roles"}, "postgres://u@h/d", 1, "", "roles cannot be rehearsed"},
		{[]string{"-dry-run", "-rotate-signing-key"}, "postgres://u@h/d", 1, "", "cannot be rehearsed"},
		{[]string{"-revoke"}, "postgres://u@h/d", 1, "", "it needs rotateSigningKey"},
		{[]string{"-rotate-signing-key"}, "postgres://u@h/d", 1, "", "SIGNING_KEY must be the ARN of a secret"},
	} {
		cmd := exec.Command(binary, c.args...)
		cmd.Env = []string{"DATABASE_URL=" + c.databaseURL}
		var stdout, stderr bytes.Buffer
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		err := cmd.Run()
		require.Equal(t, c.code, cmd.ProcessState.ExitCode(), "%v: %v %s", c.args, err, &stderr)
		require.Contains(t, stdout.String(), c.stdout)
		require.Contains(t, stderr.String(), c.stderr)
		require.NotContains(t, stderr.String(), `{"`, "no log")
		require.Equal(t, c.stdout == "", stdout.Len() == 0)
		require.Equal(t, c.stderr == "", stderr.Len() == 0)
	}
}
