package main

import (
	"fmt"
	"net/http"
	"os"
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
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/skip"
)

// waits are running calls that wait for a promise, over HTTP and through the Invoke API.
type waits struct {
	sync.WaitGroup
	mu            sync.Mutex
	http, invoked []string // the responses
}

const (
	waitsOfEach = 4
	waitsOfAll  = 3 * waitsOfEach
)

// startWaits starts calls that wait for a promise and for its workflow's next event. It returns after each of them has polled the
// database once.
func (r *runner) startWaits(t *testing.T) *waits {
	t.Helper()
	workflow := uuid.NewString()
	status, p := r.call(t, "POST", "/promises", fmt.Sprintf(`{"workflowExecutionId":%q,"name":"payment"}`, workflow))
	require.Equal(t, 201, status, "%v %s", p, &r.stderr)
	id := p["promiseId"].(string)
	client := sdk.New(sdk.Options{
		BaseEndpoint: aws.String(r.ready.LambdaURL), Region: "eu-central-1", RetryMaxAttempts: 1,
		Credentials: credentials.NewStaticCredentialsProvider("key", "secret", ""),
	})
	w := &waits{}
	add := func(list *[]string, answer string) {
		w.mu.Lock()
		defer w.mu.Unlock()
		*list = append(*list, answer)
	}
	for _, path := range []string{"/promises/id:" + id + "/wait?waitSeconds=25", "/workflows/" + workflow + "/events/wait?after=1&waitSeconds=25"} {
		for range waitsOfEach {
			w.Go(func() {
				status, body, err := r.get(path)
				assert.NoError(t, err, "the runner closed the connection without a response")
				add(&w.http, fmt.Sprint(status, " ", body))
			})
		}
	}
	for range waitsOfEach {
		w.Go(func() {
			out, err := client.Invoke(t.Context(), &sdk.InvokeInput{
				FunctionName: aws.String("wait-promise"), Payload: fmt.Appendf(nil, `{"tenant":"demo","promiseId":%q,"waitSeconds":25}`, id),
			})
			if err != nil {
				add(&w.invoked, err.Error())
				return
			}
			add(&w.invoked, aws.ToString(out.FunctionError)+string(out.Payload))
		})
	}

	conn, err := pgx.Connect(t.Context(), r.ready.DatabaseURL)
	require.NoError(t, err)
	defer conn.Close(t.Context()) //nolint:errcheck // nothing is lost with it
	const polled = `SELECT COUNT(*) FROM pg_stat_activity WHERE state = 'idle' AND query LIKE ANY($1)`
	statements := []string{firstLine(t, "get"), firstLine(t, "list_events")}
	require.Eventually(t, func() bool {
		n := 0
		return assert.NoError(t, conn.QueryRow(t.Context(), polled, statements).Scan(&n)) && n == waitsOfAll
	}, 3*time.Minute, 10*time.Millisecond, "%s", &r.stderr)
	return w
}

// firstLine returns a LIKE pattern for the first line of a statement of the repository.
func firstLine(t *testing.T, name string) string {
	t.Helper()
	sql, err := os.ReadFile("../../shared/repository/queries/" + name + ".sql")
	require.NoError(t, err)
	line, _, _ := strings.Cut(string(sql), "\n")
	return strings.ReplaceAll(line, "_", `\_`) + "%"
}

// When the runner stops, waiting calls get the promise's current state.
func TestStop_WaitingCallsGetTheCurrentState(t *testing.T) {
	t.Parallel()
	r := startRunner(t)
	w := r.startWaits(t)
	r.stop(t, syscall.SIGTERM)
	w.Wait()
	t.Run("over HTTP", func(t *testing.T) {
		require.Len(t, w.http, 2*waitsOfEach)
		for _, answer := range w.http {
			require.True(t, strings.HasPrefix(answer, "200 "), answer)
			require.True(t, strings.Contains(answer, `"state":"pending"`) || strings.Contains(answer, `{"events":[],"nextAfter":1}`), answer)
		}
	})
	t.Run("through the Invoke API", func(t *testing.T) {
		require.Len(t, w.invoked, waitsOfEach)
		for _, answer := range w.invoked {
			require.True(t, strings.HasPrefix(answer, "{"), answer)
			require.Contains(t, answer, `"state":"pending"`)
		}
	})
}

// When the runner stops and the functions do not respond, the HTTP API and the Invoke API answer the waiting calls themselves.
func TestStop_FunctionsHang_APIsAnswer(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		skip.Now(t, "the functions' processes are found in /proc")
	}
	r := startRunner(t)
	w := r.startWaits(t)
	for _, pid := range r.functionPIDs() {
		require.NoError(t, syscall.Kill(pid, syscall.SIGSTOP))
	}
	r.stop(t, syscall.SIGINT)
	w.Wait()
	t.Run("over HTTP", func(t *testing.T) {
		for _, answer := range w.http {
			require.Equal(t, `503 {"message":"`+http.StatusText(http.StatusServiceUnavailable)+`"}`, answer)
		}
	})
	t.Run("through the Invoke API", func(t *testing.T) {
		for _, answer := range w.invoked {
			require.Contains(t, answer, "StatusCode: 500")
			require.Contains(t, answer, "ServiceException")
		}
	})
}

// The next runner removes the folders of a killed runner. It keeps the folders of a running one.
func TestNextRunnerRemovesFoldersOfAKilledOne(t *testing.T) {
	t.Parallel()
	dir := tempFolder(t)
	data, tmp := filepath.Join(dir, "data"), filepath.Join(dir, "tmp")
	require.NoError(t, os.Mkdir(tmp, 0o711)) //nolint:gosec // see tempFolder
	env := []string{"TMPDIR=" + tmp}
	start := func(databaseURL string) *runner {
		r := startCommand(t, append(env, "DATABASE_URL="+databaseURL), []string{localBinary}, "--data", data)
		r.tmp = tmp
		return r
	}
	entries := func(t *testing.T, dir string) (names []string) {
		t.Helper()
		list, err := os.ReadDir(dir)
		require.NoError(t, err)
		for _, e := range list {
			names = append(names, e.Name())
		}
		return names
	}
	killed := start("").awaitReady(t)
	left := entries(t, tmp)
	require.Len(t, left, 1, "the functions' binaries")
	inData := entries(t, data)
	require.NoError(t, killed.cmd.Process.Kill())
	<-killed.exited
	require.Equal(t, left, entries(t, tmp), "a killed runner removes nothing")

	second := start("").awaitReady(t)
	own := entries(t, tmp)
	t.Run("the killed runner's folder is removed", func(t *testing.T) { require.NotContains(t, own, left[0]) })
	t.Run("Postgres has the same files", func(t *testing.T) { require.Equal(t, inData, entries(t, data)) })
	third := start(second.ready.DatabaseURL).awaitReady(t)
	t.Run("a running runner's folder is kept", func(t *testing.T) {
		require.Len(t, entries(t, tmp), 2)
		require.Subset(t, entries(t, tmp), own)
	})
	t.Run("a running runner still starts functions", func(t *testing.T) {
		status, p := second.call(t, "POST", "/promises/key:a/cancel", "") // this function has not run yet
		require.Equal(t, 404, status)
		require.Equal(t, "not_found", p["code"], "%v %s", p, &second.stderr)
	})
	require.NoError(t, third.cmd.Process.Signal(syscall.SIGTERM))
	<-third.exited
	t.Run("a stopped runner removes its own folder", func(t *testing.T) { require.Equal(t, own, entries(t, tmp)) })
	second.stop(t, syscall.SIGTERM)
	require.Contains(t, second.stdout.String(), "Building the functions.")
}
