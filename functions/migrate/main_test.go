package main_test

import (
	"bytes"
	"cmp"
	"encoding/json"
	"net"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/infra/local/lambda"
	"github.com/flovyn/promises/shared/dbtest"
)

type properties map[string]any

// update sends an update of the custom resource.
func (f *function) update(t *testing.T, id string, was, is properties) (status, physicalID, reason string) {
	t.Helper()
	return f.event(t, map[string]any{
		"RequestType": "Update", "RequestId": "r", "StackId": "s", "ResourceType": "Custom::Migration", "LogicalResourceId": "MigrateDone",
		"PhysicalResourceId": id, "OldResourceProperties": was, "ResourceProperties": is,
	})
}

// of returns the properties of the custom resource.
func of(database, guarded, snapshot string) properties {
	return properties{"ServiceToken": "arn", "Version": "v", "Database": database, "Guarded": guarded, "Snapshot": snapshot}
}

// previous are the properties of a release that sent no database.
var previous = properties{"ServiceToken": "arn", "Version": "v"}

// trap returns the URL of a database to which nothing may connect, and the number of connections.
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

// An update that replaces a guarded database by a database without its data fails before the function connects to it.
func TestAReplacedDatabaseIsRefused(t *testing.T) {
	t.Parallel()
	databaseURL, connections := trap(t)
	f := newFunction(t, databaseURL)
	for name, c := range map[string]struct {
		id      string
		was, is properties
		says    []string
	}{
		"empty": {"migration/db-a", of("db-a", "true", ""), of("db-b", "true", ""),
			[]string{"db-a by db-b, which is empty", "undo the setting", "-c snapshot=<its name>"}},
		"the old database is guarded": {"migration/db-a", of("db-a", "true", ""), of("db-b", "false", ""), []string{"which is empty"}},
		"the new database is guarded": {"migration/db-a", of("db-a", "false", ""), of("db-b", "true", ""), []string{"which is empty"}},
		"guarded as a boolean":        {"migration/db-a", properties{"Database": "db-a", "Guarded": true}, properties{"Database": "db-b"}, []string{"which is empty"}},
		"the snapshot is forgotten": {"migration/db-a", of("db-a", "true", "daily-1"), of("db-b", "true", ""),
			[]string{"-c snapshot is no longer set", "deploy with -c snapshot=daily-1, as before"}},
		"the same snapshot again": {"migration/db-a", of("db-a", "true", "daily-1"), of("db-b", "true", "daily-1"),
			[]string{`only the data of the snapshot "daily-1"`, "take a new snapshot of it"}},
		"after a restore":                         {"migration/db-b/db-a", of("db-b", "true", "daily-1"), of("db-c", "true", ""), []string{"db-b by db-c"}},
		"the physical id of the previous release": {"migration", of("db-a", "true", ""), of("db-b", "true", ""), []string{"which is empty"}},
	} {
		t.Run(name, func(t *testing.T) {
			status, id, reason := f.update(t, c.id, c.was, c.is)
			require.Equal(t, "FAILED", status)
			require.Equal(t, c.id, id, "another id would make CloudFormation delete the resource")
			for _, text := range append(c.says, "Nothing was migrated.", "rolls the deployment back, and the old database stays as it is") {
				require.Contains(t, reason, text)
			}
		})
	}
	t.Run("the sample event", func(t *testing.T) {
		status, _, reason := f.event(t, sample(t, "bad-cloudformation-replaced"))
		require.Equal(t, "FAILED", status)
		require.Contains(t, reason, "which is empty")
	})
	t.Run("the function never connects", func(t *testing.T) { require.Zero(t, connections.Load()) })
	t.Run("the log has the failure and no secret", func(t *testing.T) {
		require.Contains(t, f.output.String(), "migration failed")
		require.NotContains(t, f.output.String(), "hunter2")
	})
}

// CloudFormation rolls an update back with another update, from the new properties to the old ones. The function accepts it, whether
// the first update or a later resource failed.
func TestReplacementsThatAreMeant(t *testing.T) {
	t.Parallel()
	f := newFunction(t, dbtest.Bare(t).URL)
	for _, kind := range []string{"create", "update", "delete"} {
		t.Run("the sample event of a "+kind, func(t *testing.T) {
			status, id, reason := f.event(t, sample(t, "cloudformation-"+kind))
			require.Equal(t, "SUCCESS", status, "%s\n%s", reason, &f.output)
			require.Equal(t, "migration/db-ABCDEFGHIJKLMNOPQRSTUVWXYZ", id)
		})
	}

	a, b, empty, again := of("db-a", "true", ""), of("db-b", "true", "daily-1"), of("db-c", "true", ""), of("db-c", "true", "daily-1")
	for _, c := range []struct {
		name    string
		id      string
		was, is properties
		wantID  string // empty: the update is refused, and the id stays
	}{
		{"the first release that sends a database", "migration", previous, a, "migration/db-a"},
		{"the same database", "migration/db-a", a, a, "migration/db-a"},
		{"a database restored from a new snapshot", "migration/db-a", a, b, "migration/db-b/db-a"},
		{"its rollback after another resource failed", "migration/db-b/db-a", b, a, "migration/db-a/db-b"},
		{"its rollback with the id from before the update", "migration/db-a", b, a, "migration/db-a"},
		{"a later deployment of the restored database", "migration/db-b/db-a", b, b, "migration/db-b/db-a"},
		{"a second restored database", "migration/db-b/db-a", b, of("db-d", "true", "daily-2"), "migration/db-d/db-b"},
		{"a restored database after a release without databases in the id", "migration", a, b, "migration/db-b"},
		{"an empty database", "migration/db-b/db-a", b, empty, ""},
		{"the rollback of the empty database", "migration/db-b/db-a", empty, b, "migration/db-b/db-a"},
		{"the same snapshot again", "migration/db-b/db-a", b, again, ""},
		{"the rollback of the same snapshot", "migration/db-b/db-a", again, b, "migration/db-b/db-a"},
		{"an unguarded database", "migration/db-x", of("db-x", "false", ""), of("db-y", "false", ""), "migration/db-y/db-x"},
		{"a rollback to the previous release", "migration/db-a", a, previous, "migration/db-a"},
		{"a release without databases", "migration", previous, previous, "migration"},
	} {
		t.Run(c.name, func(t *testing.T) {
			status, id, reason := f.update(t, c.id, c.was, c.is)
			if c.wantID == "" {
				require.Equal(t, "FAILED", status)
				require.Equal(t, c.id, id)
				return
			}
			require.Equal(t, "SUCCESS", status, "%s\n%s", reason, &f.output)
			require.Equal(t, c.wantID, id)
		})
	}
}

// A payload must match exactly, because a misspelt dry run must not run the migration.
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
		t.Run("invalid: "+payload, func(t *testing.T) {
			result := f.invoke(t, payload)
			require.Equal(t, "invalid_payload", result.ErrorType, "%s", result.Payload)
		})
	}
	for payload, says := range map[string]string{
		`{"dryRun":null}`:              "The field dryRun must be true or false.",
		`{"dryrun":true}`:              `unknown field "dryrun"`,
		`{"roles":true,"roles":false}`: `"roles" twice`,
		`{"dryRun":true} x`:            "nothing after it",
		`{"RequestType":"create"}`:     "Create, Update or Delete",
	} {
		t.Run("the message for "+payload, func(t *testing.T) {
			var failure struct{ ErrorMessage string }
			require.NoError(t, json.Unmarshal(f.invoke(t, payload).Payload, &failure))
			require.Contains(t, failure.ErrorMessage, says)
		})
	}
	require.Zero(t, connections.Load())
	for _, payload := range []string{`{"dryRun":true,"roles":true}`, `{"revoke":true}`, `{"rotateSigningKey":true}`, `{"dryRun":true,"rotateSigningKey":true}`} {
		t.Run("refused options: "+payload, func(t *testing.T) {
			require.Equal(t, "migration_failed", f.invoke(t, payload).ErrorType)
		})
	}
	require.Zero(t, connections.Load())
}

const notYet = "cannot connect to the database yet"

// A run waits for a database that is still starting, and logs the wait.
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
	t.Run("a database that does not exist", func(t *testing.T) {
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

// In a shell, the command prints errors as plain text. A call for help is not an error.
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
		t.Run(cmp.Or(strings.Join(c.args, " "), "no database"), func(t *testing.T) {
			cmd := exec.Command(binary, c.args...)
			cmd.Env = []string{"DATABASE_URL=" + c.databaseURL}
			var stdout, stderr bytes.Buffer
			cmd.Stdout, cmd.Stderr = &stdout, &stderr
			err := cmd.Run()
			require.Equal(t, c.code, cmd.ProcessState.ExitCode(), "%v %s", err, &stderr)
			require.Contains(t, stdout.String(), c.stdout)
			require.Contains(t, stderr.String(), c.stderr)
			require.NotContains(t, stderr.String(), `{"`, "it prints no log lines")
			require.Equal(t, c.stdout == "", stdout.Len() == 0)
			require.Equal(t, c.stderr == "", stderr.Len() == 0)
		})
	}
}
