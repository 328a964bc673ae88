package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/stretchr/testify/require"
)

// TestRunner starts four runners in turn on one data folder.
func TestRunner(t *testing.T) {
	t.Parallel()
	const key = "stripe:ch_abc 50%"
	data := filepath.Join(tempFolder(t), "data")
	readSigningKey := func(t *testing.T) string {
		t.Helper()
		text, err := os.ReadFile(filepath.Join(data, signingKeyFile))
		require.NoError(t, err)
		return string(text)
	}

	first := startWith(t, "", []string{localBinary}, "--data", data).awaitReady(t)
	firstSigningKey := readSigningKey(t)
	firstCallback := first.createWithToken(t)
	id := first.create(t, key)
	t.Run("the ready file", func(t *testing.T) { requireReadyFile(t, first) })
	t.Run("the secret files", func(t *testing.T) { requireSecrets(t, data, first.ready.APIKey) })
	t.Run("the HTTP API", func(t *testing.T) { requireHTTPAPI(t, first, key, id) })
	t.Run("the Invoke API", func(t *testing.T) { requireInvokeAPI(t, first, id) })
	t.Run("a second runner on the same data folder", func(t *testing.T) {
		second := startWith(t, "", []string{localBinary}, "--data", data)
		<-second.exited
		require.Equal(t, 1, second.cmd.ProcessState.ExitCode())
		require.Regexp(t, `^local: .* is in use by .*\n$`, second.stderr.String())
		require.NoFileExists(t, second.readyFile)
	})
	first.stop(t, syscall.SIGINT)
	t.Run("the terminal", func(t *testing.T) { requireTerminal(t, first) })

	second := startWith(t, "", []string{localBinary}, "--data", data).awaitReady(t)
	t.Run("after a restart promises are still there", func(t *testing.T) {
		status, promise := second.call(t, "GET", "/promises/id:"+id, "")
		require.Equal(t, 200, status)
		require.Equal(t, "resolved", promise["state"])
	})
	t.Run("after a restart the API key is the same", func(t *testing.T) {
		require.Equal(t, first.ready.APIKey, second.ready.APIKey)
		requireSecrets(t, data, first.ready.APIKey)
	})
	t.Run("after a restart tokens are still valid", func(t *testing.T) {
		require.Contains(t, firstCallback.post(t, second.ready.HTTPURL, `{"value":"later"}`, 200), `"outcome":"settled"`)
	})
	t.Run("DATABASE_URL", func(t *testing.T) { testOtherDatabase(t, second.ready.DatabaseURL, id) })
	second.stop(t, syscall.SIGTERM)

	third := startWith(t, "", []string{localBinary}, "--data", data, "--fresh").awaitReady(t)
	thirdSigningKey := readSigningKey(t)
	t.Run("--fresh empties the database", func(t *testing.T) {
		status, _ := third.call(t, "GET", "/promises/id:"+id, "")
		require.Equal(t, 404, status)
		third.create(t, key)
	})
	t.Run("--fresh makes a new API key", func(t *testing.T) {
		require.NotEqual(t, first.ready.APIKey, third.ready.APIKey)
		requireSecrets(t, data, third.ready.APIKey)
		status, body := request(t, "GET", third.promises("/promises"), "Bearer "+first.ready.APIKey, "")
		require.Equal(t, 403, status, body)
	})
	t.Run("--fresh makes a new signing key", func(t *testing.T) {
		require.NotEqual(t, firstSigningKey, thirdSigningKey)
		firstCallback.post(t, third.ready.HTTPURL, `{"value":1}`, 403)
	})
	thirdCallback := third.createWithToken(t)
	third.stop(t, syscall.SIGINT)

	require.NoError(t, os.RemoveAll(filepath.Join(data, "cluster")))
	fourth := startWith(t, "", []string{localBinary}, "--data", data).awaitReady(t)
	t.Run("without its cluster it starts with an empty database", func(t *testing.T) {
		fourth.create(t, key)
		thirdCallback.post(t, fourth.ready.HTTPURL, `{"value":1}`, 403) // the promise no longer exists
	})
	t.Run("without its cluster the stored API key is replaced", func(t *testing.T) {
		require.NotEqual(t, third.ready.APIKey, fourth.ready.APIKey, "the stored key is no longer valid")
		requireSecrets(t, data, fourth.ready.APIKey)
	})
	t.Run("without its cluster the signing key is the same", func(t *testing.T) {
		require.Equal(t, thirdSigningKey, readSigningKey(t))
	})
	fourth.stop(t, syscall.SIGINT)
}

func requireReadyFile(t *testing.T, r *runner) {
	t.Helper()
	info, err := os.Stat(r.readyFile)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode())
	require.Regexp(t, `^http://127\.0\.0\.1:\d+$`, r.ready.HTTPURL)
	require.Regexp(t, `^http://127\.0\.0\.1:\d+$`, r.ready.LambdaURL)
	require.Equal(t, "demo", r.ready.Tenant)
}

// requireHTTPAPI resolves the promise with the key and the id, and makes calls that the HTTP API refuses.
func requireHTTPAPI(t *testing.T, r *runner, key, id string) {
	path := "/promises/key:" + url.PathEscape(key)
	t.Run("resolve", func(t *testing.T) {
		status, settled := r.call(t, "POST", path+"/resolve", `{"value":{"paid": true}}`)
		require.Equal(t, 200, status, settled)
		require.Equal(t, map[string]any{"promiseId": id, "resolved": true, "alreadyResolved": false, "state": "resolved", "outcome": "settled"}, settled)
	})
	t.Run("get", func(t *testing.T) {
		status, promise := r.call(t, "GET", "/promises/id:"+id, "")
		require.Equal(t, 200, status)
		require.Equal(t, map[string]any{"paid": true}, promise["value"])
	})
	t.Run("a value above MAX_VALUE_BYTES", func(t *testing.T) {
		status, problem := r.call(t, "POST", path+"/resolve", `{"value":"`+strings.Repeat("x", 2000)+`"}`)
		require.Equal(t, 413, status, "the functions get MAX_VALUE_BYTES from the runner: %v", problem)
	})
	t.Run("a body that is too large", func(t *testing.T) {
		status, problem := r.call(t, "POST", "/promises", strings.Repeat("x", 11<<20))
		require.Equal(t, 413, status)
		require.Equal(t, map[string]any{"message": "Request Entity Too Large"}, problem)
	})
	t.Run("no route", func(t *testing.T) {
		status, problem := r.call(t, "PATCH", "/promises", "")
		require.Equal(t, 404, status)
		require.Equal(t, map[string]any{"message": "Not Found"}, problem)
	})
}

// requireInvokeAPI invokes functions for the promise, which has the value {"paid": true}.
func requireInvokeAPI(t *testing.T, r *runner, id string) {
	t.Run("a response", func(t *testing.T) {
		out := r.lambda(t, "resolve-by-id", fmt.Sprintf(`{"tenant":"demo","promiseId":%q,"value":{"paid": true}}`, id))
		require.Nil(t, out.FunctionError, "%s", out.Payload)
		require.Contains(t, string(out.Payload), `"duplicate"`)
	})
	t.Run("a function error", func(t *testing.T) {
		out := r.lambda(t, "resolve-by-id", `{"tenant":"demo","promiseId":"x","value":1}`)
		require.Equal(t, "Unhandled", aws.ToString(out.FunctionError))
		require.Contains(t, string(out.Payload), "Invalid UUID format for promise ID")
	})
	for _, name := range []string{
		"promises-dev-get-promise", "promises-pull-request-7-get-promise:$LATEST",
		"arn:aws:lambda:eu-west-1:210987654321:function:promises-production-get-promise",
	} {
		t.Run(name, func(t *testing.T) {
			out := r.lambda(t, name, fmt.Sprintf(`{"tenant":"demo","promiseId":%q}`, id))
			require.Nil(t, out.FunctionError, "%s", out.Payload)
			require.Contains(t, string(out.Payload), id)
		})
	}
}

// requireTerminal checks the output of a runner after the calls of requireHTTPAPI and requireInvokeAPI.
func requireTerminal(t *testing.T, r *runner) {
	screen := r.stdout.String()
	t.Run("one line for each invocation", func(t *testing.T) {
		require.Regexp(t, `(?m)^\S+  migrate +[0-9.]+ ms  cold  ok$`, screen)
		require.Regexp(t, `(?m)^\S+  authorize +[0-9.]+ ms  cold  ok$`, screen)
		require.Regexp(t, `(?m)^\S+  create-promise +[0-9.]+ ms  cold  201$`, screen)
		require.Regexp(t, `(?m)^\S+  resolve +[0-9.]+ ms  cold  200$`, screen)
		require.Regexp(t, `(?m)^\S+  resolve-by-id +[0-9.]+ ms  warm  \w+$`, screen)
	})
	t.Run("a command to copy", func(t *testing.T) {
		require.Contains(t, screen, "curl -s "+r.ready.HTTPURL+"/api/tenants/demo/promises ")
	})
	t.Run("without the database's password", func(t *testing.T) {
		database, err := url.Parse(r.ready.DatabaseURL)
		require.NoError(t, err)
		password, _ := database.User.Password()
		require.NotEmpty(t, password)
		require.NotContains(t, screen+r.stderr.String(), password)
	})
}

// testOtherDatabase starts runners with DATABASE_URL set to another runner's database, and ends each in a different way.
func testOtherDatabase(t *testing.T, databaseURL, promiseID string) {
	killed := startWith(t, databaseURL, []string{localBinary}).awaitReady(t)
	t.Run("the database of DATABASE_URL is used", func(t *testing.T) {
		require.Equal(t, databaseURL, killed.ready.DatabaseURL)
		status, _ := killed.call(t, "GET", "/promises/id:"+promiseID, "")
		require.Equal(t, 200, status)
	})
	t.Run("the API key is temporary", func(t *testing.T) { requireTemporaryKey(t, killed) })
	if runtime.GOOS == "linux" {
		require.NotEmpty(t, processesIn(killed.tmp))
	}
	t.Run("when the runner is killed its functions exit", func(t *testing.T) {
		require.NoError(t, killed.cmd.Process.Kill())
		<-killed.exited
		require.Eventually(t, func() bool { return len(processesIn(killed.tmp)) == 0 }, time.Minute, 10*time.Millisecond)
	})

	root, err := filepath.Abs("../../shared")
	require.NoError(t, err)
	goRun := []string{"go", "run", "-C", root, "../infra/local"}
	t.Run("SIGINT to the group of go run", func(t *testing.T) {
		interrupted := startWith(t, databaseURL, goRun).awaitReady(t)
		require.NotEqual(t, killed.ready.APIKey, interrupted.ready.APIKey)
		require.NoError(t, syscall.Kill(-interrupted.cmd.Process.Pid, syscall.SIGINT))
		<-interrupted.exited
		require.NoFileExists(t, interrupted.readyFile)
		require.Empty(t, processesIn(interrupted.tmp))
	})
	t.Run("SIGTERM to go run", func(t *testing.T) {
		terminated := startWith(t, databaseURL, goRun).awaitReady(t)
		require.NoError(t, terminated.cmd.Process.Signal(syscall.SIGTERM))
		<-terminated.exited
		require.Eventually(t, func() bool {
			_, err := os.Stat(terminated.readyFile)
			return os.IsNotExist(err) && len(processesIn(terminated.tmp)) == 0
		}, time.Minute, 10*time.Millisecond, "go run does not forward SIGTERM, so the runner must stop when go run exits")
	})
}

// requireTemporaryKey checks that the runner's API key expires, and that of the data folder does not.
func requireTemporaryKey(t *testing.T, r *runner) {
	t.Helper()
	var list struct {
		Keys []struct {
			Name      string
			Scopes    []string
			CreatedAt time.Time
			ExpiresAt *time.Time
		}
	}
	out := r.lambda(t, "manage-tenants", `{"action":"list-keys","tenant":"demo"}`)
	require.Nil(t, out.FunctionError, "%s", out.Payload)
	require.NoError(t, json.Unmarshal(out.Payload, &list))
	require.Len(t, list.Keys, 2, "the data folder's key and this runner's")
	require.Nil(t, list.Keys[0].ExpiresAt)
	require.NotNil(t, list.Keys[1].ExpiresAt)
	require.InDelta(t, 24, list.Keys[1].ExpiresAt.Sub(list.Keys[1].CreatedAt).Hours(), 0.1)
	for _, k := range list.Keys {
		require.Equal(t, "local runner", k.Name)
		require.Equal(t, []string{"create", "settle", "read", "manage", "deliver"}, k.Scopes)
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { busy.Close() })
	for name, c := range map[string]struct {
		databaseURL string
		args        []string
		code        int
		says        string
	}{
		"--http on all interfaces":    {"", []string{"--http", "0.0.0.0:3000"}, 2, "--http 0.0.0.0:3000: not a loopback address"},
		"--lambda without a host":     {"", []string{"--lambda", ":3001"}, 2, "--lambda :3001: not a loopback address"},
		"--lambda on another machine": {"", []string{"--lambda", "example.com:3001"}, 2, "not a loopback address"},
		"--http without a colon":      {"", []string{"--http", "3000"}, 2, "--http 3000: not an address"},
		"an unknown flag":             {"", []string{"--nonsense"}, 2, "-nonsense"},
		"an argument":                 {"", []string{"start"}, 2, `"start"`},
		"--cors-origins with an asterisk": {"", []string{"--cors-origins", "https://a.example.com,*"}, 2,
			`--cors-origins: "*" is not a web origin; write https://HOST`},
		"--fresh with DATABASE_URL": {"postgres://u:secret@127.0.0.1:1/x", []string{"--fresh"}, 2, "--fresh would empty the database of DATABASE_URL"},
		"a port that is in use":     {"", []string{"--http", busy.Addr().String()}, 1, "address already in use"},
	} {
		t.Run(name, func(t *testing.T) {
			r := startWith(t, c.databaseURL, []string{localBinary}, append(c.args, "--data", filepath.Join(tempFolder(t), "data"))...)
			<-r.exited
			require.Equal(t, c.code, r.cmd.ProcessState.ExitCode())
			require.Contains(t, r.stderr.String(), c.says)
			require.Contains(t, r.stderr.String(), "local: ")
			require.NotContains(t, r.stderr.String(), "secret")
		})
	}
}

func TestDatabaseUnavailable_RunnerExits(t *testing.T) {
	t.Parallel()
	r := startWith(t, "postgres://u:hunter2@127.0.0.1:1/x?connect_timeout=1", []string{localBinary})
	<-r.exited
	require.Equal(t, 1, r.cmd.ProcessState.ExitCode())
	require.Contains(t, r.stderr.String(), "local: migrate: ")
	require.NotContains(t, r.stdout.String()+r.stderr.String(), "hunter2")
	left, err := os.ReadDir(r.tmp)
	require.NoError(t, err)
	require.Empty(t, left)
}

func TestInterruptWhileStarting(t *testing.T) {
	t.Parallel()
	r := startWith(t, "", []string{localBinary}, "--data", filepath.Join(tempFolder(t), "data"))
	require.Eventually(t, func() bool {
		made, _ := os.ReadDir(r.tmp)
		return len(made) > 0
	}, time.Minute, time.Millisecond)
	require.NoError(t, r.cmd.Process.Signal(os.Interrupt))
	<-r.exited
	require.True(t, r.cmd.ProcessState.Success(), "%s", &r.stderr)
	left, err := os.ReadDir(r.tmp)
	require.NoError(t, err)
	require.Empty(t, left)
}

func TestCommandName(t *testing.T) {
	t.Parallel()
	require.NotEmpty(t, commandName(os.Getpid()))
}

func TestGoRunEnded_ParentRuns_ChannelStaysOpen(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	select {
	case <-goRunEnded():
		t.Error("go test is still running")
	case <-ctx.Done():
	}
}
