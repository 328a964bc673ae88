package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	sdk "github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/lambda/types"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
)

var local string // the binary of this package

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "local")
	if err != nil {
		panic(err)
	}
	local = filepath.Join(dir, "local")
	build := exec.Command("go", "build", "-o", local, ".")
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		panic(err)
	}
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// folder is a folder that every user can enter: where root runs the tests,
// Postgres runs as somebody else.
func folder(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "promises-local-test-")
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	require.NoError(t, os.Chmod(dir, 0o711)) //nolint:gosec // see above
	return dir
}

// buffer is a bytes.Buffer for several goroutines.
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

// runner is a started `local`.
type runner struct {
	cmd            *exec.Cmd
	stdout, stderr buffer
	ready          ready
	readyFile, tmp string
	exited         chan struct{}
}

// begin starts the command in a group of its own, on free ports.
func begin(t *testing.T, databaseURL string, command []string, args ...string) *runner {
	t.Helper()
	return beginIn(t, []string{"DATABASE_URL=" + databaseURL}, command, args...)
}

// beginIn is begin with more of an environment.
func beginIn(t *testing.T, env, command []string, args ...string) *runner {
	t.Helper()
	dir := folder(t)
	r := &runner{readyFile: filepath.Join(dir, "ready.json"), tmp: filepath.Join(dir, "tmp"), exited: make(chan struct{})}
	require.NoError(t, os.Mkdir(r.tmp, 0o711)) //nolint:gosec // see folder
	command = append(append(command, "--http", "127.0.0.1:0", "--lambda", "localhost:0", "--ready-file", r.readyFile), args...)
	r.cmd = exec.Command(command[0], command[1:]...)
	r.cmd.Env = append(os.Environ(), "DATABASE_URL=", "TMPDIR="+r.tmp, "MAX_VALUE_BYTES=1000", "RETENTION_DAYS=1",
		"LOG_LEVEL=", "PUBLIC_URL=", "SIGNING_KEY=", "TOKEN_KEYS=")
	r.cmd.Env = append(r.cmd.Env, env...)
	r.cmd.Stdout, r.cmd.Stderr = &r.stdout, &r.stderr
	r.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	require.NoError(t, r.cmd.Start())
	go func() {
		r.cmd.Wait() //nolint:errcheck // see ProcessState
		close(r.exited)
	}()
	t.Cleanup(func() {
		select {
		case <-r.exited:
		default:
			syscall.Kill(-r.cmd.Process.Pid, syscall.SIGTERM) //nolint:errcheck // it may just have gone
			<-r.exited
		}
	})
	return r
}

// await waits until the runner is ready.
func (r *runner) await(t *testing.T) *runner {
	t.Helper()
	for deadline := time.Now().Add(3 * time.Minute); ; {
		b, err := os.ReadFile(r.readyFile)
		if err == nil {
			require.NoError(t, json.Unmarshal(b, &r.ready))
			return r
		}
		select {
		case <-r.exited:
			require.FailNow(t, "it ended", "%s%s", &r.stdout, &r.stderr)
		case <-time.After(10 * time.Millisecond):
		}
		require.True(t, time.Now().Before(deadline), "not ready: %s%s", &r.stdout, &r.stderr)
	}
}

// end sends the signal to the whole group, as a terminal does, and checks that
// nothing is left but the data.
func (r *runner) end(t *testing.T, s syscall.Signal) {
	t.Helper()
	require.NoError(t, syscall.Kill(-r.cmd.Process.Pid, s))
	time.Sleep(20 * time.Millisecond)
	syscall.Kill(-r.cmd.Process.Pid, s) //nolint:errcheck // twice is nothing else
	<-r.exited
	require.True(t, r.cmd.ProcessState.Success(), "%v\n%s%s", r.cmd.ProcessState, &r.stdout, &r.stderr)
	require.NoFileExists(t, r.readyFile)
	left, err := os.ReadDir(r.tmp)
	require.NoError(t, err)
	require.Empty(t, left)
	require.Empty(t, processesUnder(r.tmp))
	_, err = net.Dial("tcp", strings.TrimPrefix(r.ready.HTTPURL, "http://"))
	require.ErrorIs(t, err, syscall.ECONNREFUSED)
}

// processesUnder lists the processes whose binary is in the folder; none where
// the system has no /proc.
func processesUnder(dir string) []string {
	exes, _ := filepath.Glob("/proc/[0-9]*/exe")
	var found []string
	for _, exe := range exes {
		if target, err := os.Readlink(exe); err == nil && strings.HasPrefix(target, dir) {
			found = append(found, target)
		}
	}
	return found
}

// call calls the demo tenant's API with the runner's key.
func (r *runner) call(t *testing.T, method, path, body string) (int, map[string]any) {
	t.Helper()
	status, b := request(t, method, r.promises(path), "Bearer "+r.ready.APIKey, body)
	var fields map[string]any
	require.NoError(t, json.Unmarshal([]byte(b), &fields), "%s", b)
	return status, fields
}

// promises is the URL of a path of the demo tenant.
func (r *runner) promises(path string) string { return r.ready.HTTPURL + "/api/tenants/demo" + path }

// request makes one HTTP request, with no Authorization where that is empty.
func request(t *testing.T, method, url, authorization, body string) (int, string) {
	t.Helper()
	req, err := http.NewRequest(method, url, strings.NewReader(body))
	require.NoError(t, err)
	req.Header.Set("Content-Type", "application/json")
	if authorization != "" {
		req.Header.Set("Authorization", authorization)
	}
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return resp.StatusCode, string(b)
}

func (r *runner) create(t *testing.T, key string) (promiseID string) {
	t.Helper()
	status, p := r.call(t, "POST", "/promises", fmt.Sprintf(
		`{"workflowExecutionId":%q,"name":"payment","idempotencyKey":%q}`, uuid.NewString(), key))
	require.Equal(t, 201, status, "%v %s", p, &r.stderr)
	return p["promiseId"].(string)
}

func (r *runner) lambda(t *testing.T, function, payload string) *sdk.InvokeOutput {
	t.Helper()
	client := sdk.New(sdk.Options{
		BaseEndpoint: aws.String(r.ready.LambdaURL),
		Region:       "eu-central-1",
		Credentials:  credentials.NewStaticCredentialsProvider("key", "secret", ""),
	})
	out, err := client.Invoke(t.Context(), &sdk.InvokeInput{
		FunctionName: &function, Payload: []byte(payload), LogType: types.LogTypeTail,
	})
	require.NoError(t, err)
	return out
}

// TestRunner goes through one data folder's life.
func TestRunner(t *testing.T) {
	t.Parallel()
	data := filepath.Join(folder(t), "data")

	first := begin(t, "", []string{local}, "--data", data).await(t)
	info, err := os.Stat(first.readyFile)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode())
	require.Regexp(t, `^http://127\.0\.0\.1:\d+$`, first.ready.HTTPURL)
	require.Regexp(t, `^http://127\.0\.0\.1:\d+$`, first.ready.LambdaURL)
	require.Equal(t, "demo", first.ready.Tenant)

	requireSecrets(t, data, first.ready.APIKey)
	signing, err := os.ReadFile(filepath.Join(data, signingKeyFile))
	require.NoError(t, err)
	callback := first.createWithToken(t)

	const key = "stripe:ch_abc 50%"
	id := first.create(t, key)
	path := "/promises/key:" + url.PathEscape(key)
	status, settled := first.call(t, "POST", path+"/resolve", `{"value":{"paid": true}}`)
	require.Equal(t, 200, status, settled)
	require.Equal(t, map[string]any{"promiseId": id, "resolved": true, "alreadyResolved": false, "state": "resolved", "outcome": "settled"}, settled)
	status, promise := first.call(t, "GET", "/promises/id:"+id, "")
	require.Equal(t, 200, status)
	require.Equal(t, map[string]any{"paid": true}, promise["value"])

	out := first.lambda(t, "resolve-by-id", fmt.Sprintf(`{"tenant":"demo","promiseId":%q,"value":{"paid": true}}`, id))
	require.Nil(t, out.FunctionError, "%s", out.Payload)
	require.Contains(t, string(out.Payload), `"duplicate"`)
	out = first.lambda(t, "resolve-by-id", `{"tenant":"demo","promiseId":"x","value":1}`)
	require.Equal(t, "Unhandled", aws.ToString(out.FunctionError))
	require.Contains(t, string(out.Payload), "Invalid UUID format for promise ID")
	for _, name := range []string{
		"promises-dev-get-promise", "promises-pull-request-7-get-promise:$LATEST",
		"arn:aws:lambda:eu-west-1:210987654321:function:promises-production-get-promise",
	} {
		out = first.lambda(t, name, fmt.Sprintf(`{"tenant":"demo","promiseId":%q}`, id))
		require.Nil(t, out.FunctionError, "%s: %s", name, out.Payload)
		require.Contains(t, string(out.Payload), id, name)
	}

	status, problem := first.call(t, "POST", path+"/resolve", `{"value":"`+strings.Repeat("x", 2000)+`"}`)
	require.Equal(t, 413, status, "the functions see our MAX_VALUE_BYTES: %v", problem)
	status, problem = first.call(t, "POST", "/promises", strings.Repeat("x", 11<<20))
	require.Equal(t, 413, status)
	require.Equal(t, map[string]any{"message": "Request Entity Too Large"}, problem)
	status, problem = first.call(t, "PATCH", "/promises", "")
	require.Equal(t, 404, status)
	require.Equal(t, map[string]any{"message": "Not Found"}, problem)

	taken := begin(t, "", []string{local}, "--data", data)
	<-taken.exited
	require.Equal(t, 1, taken.cmd.ProcessState.ExitCode())
	require.Regexp(t, `^local: .* is in use by .*\n$`, taken.stderr.String())
	require.NoFileExists(t, taken.readyFile)

	first.end(t, syscall.SIGINT)
	screen := first.stdout.String()
	require.Regexp(t, `(?m)^\S+  migrate +[0-9.]+ ms  cold  ok$`, screen)
	require.Regexp(t, `(?m)^\S+  authorize +[0-9.]+ ms  cold  ok$`, screen)
	require.Regexp(t, `(?m)^\S+  create-promise +[0-9.]+ ms  cold  201$`, screen)
	require.Regexp(t, `(?m)^\S+  resolve +[0-9.]+ ms  cold  200$`, screen)
	require.Regexp(t, `(?m)^\S+  resolve-by-id +[0-9.]+ ms  warm  \w+$`, screen)
	require.Contains(t, screen, "curl -s "+first.ready.HTTPURL+"/api/tenants/demo/promises ")
	database, err := url.Parse(first.ready.DatabaseURL)
	require.NoError(t, err)
	password, _ := database.User.Password()
	require.NotEmpty(t, password)
	require.NotContains(t, screen+first.stderr.String(), password)

	second := begin(t, "", []string{local}, "--data", data).await(t)
	status, promise = second.call(t, "GET", "/promises/id:"+id, "")
	require.Equal(t, 200, status)
	require.Equal(t, "resolved", promise["state"])
	require.Equal(t, first.ready.APIKey, second.ready.APIKey)
	requireSecrets(t, data, first.ready.APIKey)
	text := callback.post(t, second.ready.HTTPURL, `{"value":"later"}`, 200)
	require.Contains(t, text, `"outcome":"settled"`, "tokens outlive a restart")
	t.Run("DATABASE_URL", func(t *testing.T) { onADatabase(t, second.ready.DatabaseURL, id) })
	second.end(t, syscall.SIGTERM)

	third := begin(t, "", []string{local}, "--data", data, "--fresh").await(t)
	status, _ = third.call(t, "GET", "/promises/id:"+id, "")
	require.Equal(t, 404, status)
	third.create(t, key)
	require.NotEqual(t, first.ready.APIKey, third.ready.APIKey)
	requireSecrets(t, data, third.ready.APIKey)
	fresh, err := os.ReadFile(filepath.Join(data, signingKeyFile))
	require.NoError(t, err)
	require.NotEqual(t, signing, fresh)
	status, body := request(t, "GET", third.promises("/promises"), "Bearer "+first.ready.APIKey, "")
	require.Equal(t, 403, status, body)
	callback.post(t, third.ready.HTTPURL, `{"value":1}`, 403)
	callback = third.createWithToken(t)
	third.end(t, syscall.SIGINT)

	require.NoError(t, os.RemoveAll(filepath.Join(data, "cluster")))
	fourth := begin(t, "", []string{local}, "--data", data).await(t)
	fourth.create(t, key)
	callback.post(t, fourth.ready.HTTPURL, `{"value":1}`, 403) // of a promise that is no longer there
	require.NotEqual(t, third.ready.APIKey, fourth.ready.APIKey, "a key is kept for as long as it is good")
	requireSecrets(t, data, fourth.ready.APIKey)
	kept, err := os.ReadFile(filepath.Join(data, signingKeyFile))
	require.NoError(t, err)
	require.Equal(t, fresh, kept)
	fourth.end(t, syscall.SIGINT)
}

// onADatabase runs runners that use a database which is not theirs.
func onADatabase(t *testing.T, databaseURL, promiseID string) {
	killed := begin(t, databaseURL, []string{local}).await(t)
	require.Equal(t, databaseURL, killed.ready.DatabaseURL)
	status, _ := killed.call(t, "GET", "/promises/id:"+promiseID, "")
	require.Equal(t, 200, status)
	requireTemporaryKey(t, killed)
	if runtime.GOOS == "linux" {
		require.NotEmpty(t, processesUnder(killed.tmp))
	}
	require.NoError(t, killed.cmd.Process.Kill())
	<-killed.exited
	require.Eventually(t, func() bool { return len(processesUnder(killed.tmp)) == 0 }, time.Minute, 10*time.Millisecond,
		"the functions outlive nobody")

	root, err := filepath.Abs("../../shared")
	require.NoError(t, err)
	goRun := []string{"go", "run", "-C", root, "../infra/local"}
	interrupted := begin(t, databaseURL, goRun).await(t)
	require.NotEqual(t, killed.ready.APIKey, interrupted.ready.APIKey)
	require.NoError(t, syscall.Kill(-interrupted.cmd.Process.Pid, syscall.SIGINT))
	<-interrupted.exited
	require.NoFileExists(t, interrupted.readyFile)
	require.Empty(t, processesUnder(interrupted.tmp))

	terminated := begin(t, databaseURL, goRun).await(t)
	require.NoError(t, terminated.cmd.Process.Signal(syscall.SIGTERM))
	<-terminated.exited
	require.Eventually(t, func() bool {
		_, err := os.Stat(terminated.readyFile)
		return os.IsNotExist(err) && len(processesUnder(terminated.tmp)) == 0
	}, time.Minute, 10*time.Millisecond, "go run passes no SIGTERM on; its end must be enough")
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { busy.Close() })
	for _, c := range []struct {
		databaseURL string
		args        []string
		code        int
		says        string
	}{
		{"", []string{"--http", "0.0.0.0:3000"}, 2, "--http 0.0.0.0:3000: not a loopback address"},
		{"", []string{"--lambda", ":3001"}, 2, "--lambda :3001: not a loopback address"},
		{"", []string{"--lambda", "example.com:3001"}, 2, "not a loopback address"},
		{"", []string{"--http", "3000"}, 2, "--http 3000: not an address"},
		{"", []string{"--nonsense"}, 2, "-nonsense"},
		{"", []string{"start"}, 2, `"start"`},
		{"", []string{"--cors-origins", "https://a.example.com,*"}, 2, `--cors-origins: "*" is not a web origin; write https://HOST`},
		{"postgres://u:secret@127.0.0.1:1/x", []string{"--fresh"}, 2, "--fresh would empty the database of DATABASE_URL"},
		{"", []string{"--http", busy.Addr().String()}, 1, "address already in use"},
	} {
		r := begin(t, c.databaseURL, []string{local}, append(c.args, "--data", filepath.Join(folder(t), "data"))...)
		<-r.exited
		require.Equal(t, c.code, r.cmd.ProcessState.ExitCode(), "%v", c.args)
		require.Contains(t, r.stderr.String(), c.says)
		require.Contains(t, r.stderr.String(), "local: ")
		require.NotContains(t, r.stderr.String(), "secret")
	}
}

func TestDatabaseAway(t *testing.T) {
	t.Parallel()
	r := begin(t, "postgres://u:secret@127.0.0.1:1/x?connect_timeout=1", []string{local})
	<-r.exited
	require.Equal(t, 1, r.cmd.ProcessState.ExitCode())
	require.Contains(t, r.stderr.String(), "local: migrate: ")
	require.NotContains(t, r.stdout.String()+r.stderr.String(), "secret")
	left, err := os.ReadDir(r.tmp)
	require.NoError(t, err)
	require.Empty(t, left)
}

func TestInterruptWhileStarting(t *testing.T) {
	t.Parallel()
	r := begin(t, "", []string{local}, "--data", filepath.Join(folder(t), "data"))
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
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	select {
	case <-goRunEnded():
		t.Error("go test is still there")
	case <-ctx.Done():
	}
}
