package lambda_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/infra/local/lambda"
)

// invoke invokes the function odd and asks for the end of its log.
func invoke(t *testing.T, s *lambda.Service, payload string) lambda.Result {
	t.Helper()
	r, err := s.Invoke(t.Context(), "odd", lambda.Request{Payload: []byte(payload), Tail: true})
	require.NoError(t, err)
	return r
}

// observed holds the facts that the odd function returns about its invocation.
type observed struct {
	PID       int
	RequestID string
	ARN       string
	Client    map[string]string
	LeftMs    int64
	TraceID   string
}

// decode parses the result of an invocation that succeeded.
func decode(t *testing.T, r lambda.Result) observed {
	t.Helper()
	require.Empty(t, r.ErrorType, "%s", r.Payload)
	var s observed
	require.NoError(t, json.Unmarshal(r.Payload, &s), "%s", r.Payload)
	return s
}

func TestEnvironmentIsReused(t *testing.T) {
	t.Parallel()
	s := start(t, lambda.Options{}, lambda.Function{})
	first := invoke(t, s, `{}`)
	require.True(t, first.Cold)
	require.Positive(t, first.Init)
	require.Empty(t, first.FunctionError())
	for range 20 {
		again := invoke(t, s, `{}`)
		require.False(t, again.Cold)
		require.Zero(t, again.Init)
		require.Equal(t, decode(t, first).PID, decode(t, again).PID)
		require.NotEqual(t, first.RequestID, again.RequestID)
	}
}

func TestFunctionSeesItsInvocation(t *testing.T) {
	t.Parallel()
	s := start(t, lambda.Options{}, lambda.Function{Timeout: 30 * time.Second})
	t.Run("the request's fields", func(t *testing.T) {
		r, err := s.Invoke(t.Context(), "odd", lambda.Request{
			RequestID:     "8c3b0a9e-26b9-4dbb-a39b-1e6f4bb1a7c0",
			ClientContext: `{"custom":{"a":"b"}}`,
			TraceID:       "Root=1-5759e988-bd862e3fe1be46a994272793;Sampled=1",
			Qualifier:     "$LATEST",
		})
		require.NoError(t, err)
		got := decode(t, r)
		require.Equal(t, "8c3b0a9e-26b9-4dbb-a39b-1e6f4bb1a7c0", got.RequestID)
		require.Equal(t, got.RequestID, r.RequestID)
		require.Equal(t, "arn:aws:lambda:us-east-1:123456789012:function:odd:$LATEST", got.ARN)
		require.Equal(t, map[string]string{"a": "b"}, got.Client)
		require.Regexp(t, `^Root=1-5759e988-bd862e3fe1be46a994272793;Parent=[0-9a-f]{16};Sampled=0;Lineage=1:[0-9a-f]{8}:0$`, got.TraceID)
		require.Greater(t, got.LeftMs, int64(0))
		require.LessOrEqual(t, got.LeftMs, int64(30_000))
	})
	t.Run("defaults", func(t *testing.T) {
		got := decode(t, invoke(t, s, `{}`))
		require.Equal(t, lambda.ARN("odd"), got.ARN)
		require.Regexp(t, `^Root=1-[0-9a-f]{8}-[0-9a-f]{24};`, got.TraceID)
	})
}

func TestEnvironmentVariables(t *testing.T) {
	t.Parallel()
	s := start(t, lambda.Options{}, lambda.Function{Env: []string{"DATABASE_URL=postgres://x"}})
	var got struct {
		Environ []string
		Dir     string
	}
	require.NoError(t, json.Unmarshal(invoke(t, s, `{"do":"environ"}`).Payload, &got))
	env := map[string]string{}
	for _, kv := range got.Environ {
		k, v, _ := strings.Cut(kv, "=")
		env[k] = v
	}
	require.Regexp(t, `^127\.0\.0\.1:\d+$`, env["AWS_LAMBDA_RUNTIME_API"])
	require.Regexp(t, `^\d{4}/\d\d/\d\d/\[\$LATEST\][0-9a-f]{32}$`, env["AWS_LAMBDA_LOG_STREAM_NAME"])
	require.Regexp(t, `^Root=1-`, env["_X_AMZN_TRACE_ID"])
	for _, k := range []string{"AWS_LAMBDA_RUNTIME_API", "AWS_LAMBDA_LOG_STREAM_NAME", "_X_AMZN_TRACE_ID"} {
		delete(env, k)
	}
	require.Equal(t, map[string]string{
		"AWS_LAMBDA_FUNCTION_NAME":        "odd",
		"AWS_LAMBDA_FUNCTION_VERSION":     "$LATEST",
		"AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "256",
		"AWS_LAMBDA_INITIALIZATION_TYPE":  "on-demand",
		"AWS_LAMBDA_LOG_GROUP_NAME":       "/aws/lambda/odd",
		"AWS_REGION":                      "us-east-1",
		"AWS_DEFAULT_REGION":              "us-east-1",
		"AWS_ACCESS_KEY_ID":               "local",
		"AWS_SECRET_ACCESS_KEY":           "local",
		"AWS_SESSION_TOKEN":               "local",
		"_HANDLER":                        "bootstrap",
		"LAMBDA_TASK_ROOT":                filepath.Dir(odd),
		"LAMBDA_RUNTIME_DIR":              "/var/runtime",
		"LANG":                            "en_US.UTF-8",
		"PATH":                            "/usr/local/bin:/usr/bin:/bin:/opt/bin",
		"TZ":                              ":UTC",
		"DATABASE_URL":                    "postgres://x",
	}, env)
}

func TestEnvironmentRunsOneInvocationAtATime(t *testing.T) {
	t.Parallel()
	s := start(t, lambda.Options{}, lambda.Function{})
	var wg sync.WaitGroup
	pids := make([]int, 5)
	for i := range pids {
		wg.Go(func() { pids[i] = decode(t, invoke(t, s, `{"do":"sleep","ms":500}`)).PID })
	}
	wg.Wait()
	distinct := map[int]bool{}
	for _, pid := range pids {
		distinct[pid] = true
	}
	require.Len(t, distinct, 5, "overlapping invocations run in separate environments")
	require.True(t, distinct[decode(t, invoke(t, s, `{}`)).PID])
}

func TestMaxEnvironments(t *testing.T) {
	t.Parallel()
	s := start(t, lambda.Options{MaxEnvironments: 1}, lambda.Function{}, lambda.Function{Name: "other"})
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			r, err := s.Invoke(context.Background(), "odd", lambda.Request{Payload: []byte(`{"do":"sleep","ms":1000}`)})
			if !errors.Is(err, lambda.ErrThrottled) { // it may be throttled itself
				assert.NoError(t, err)
				assert.Empty(t, r.ErrorType)
			}
			select {
			case <-stop:
				return
			default:
			}
		}
	}()
	require.Eventually(t, func() bool {
		_, err := s.Invoke(t.Context(), "other", lambda.Request{})
		return errors.Is(err, lambda.ErrThrottled)
	}, time.Minute, time.Millisecond)
	close(stop)
	<-stopped

	r, err := s.Invoke(t.Context(), "other", lambda.Request{})
	require.NoError(t, err, "a new environment replaces an idle one")
	require.True(t, r.Cold)
}

func TestTimeout(t *testing.T) {
	t.Parallel()
	s := start(t, lambda.Options{}, lambda.Function{Timeout: 300 * time.Millisecond})
	inTime := func(t *testing.T) (r lambda.Result) { // on a busy machine even an empty invocation may time out
		t.Helper()
		require.Eventually(t, func() bool { r = invoke(t, s, `{}`); return !r.TimedOut }, time.Minute, time.Millisecond)
		return r
	}
	before := decode(t, inTime(t))
	r := invoke(t, s, `{"do":"sleep","ms":60000}`)
	t.Run("the result is an error", func(t *testing.T) {
		require.True(t, r.TimedOut)
		require.Equal(t, "Sandbox.Timedout", r.ErrorType)
		require.Equal(t, "Unhandled", r.FunctionError())
		require.JSONEq(t, fmt.Sprintf(`{"errorType":"Sandbox.Timedout","errorMessage":"RequestId: %s Error: Task timed out after 0.30 seconds"}`, r.RequestID), string(r.Payload))
		require.GreaterOrEqual(t, r.Duration, 300*time.Millisecond)
	})
	t.Run("the log reports it", func(t *testing.T) {
		require.Regexp(t, `Z `+r.RequestID+` Task timed out after 0\.30 seconds\n\nEND RequestId: `, string(r.Log))
		require.Regexp(t, `\tStatus: timeout\n$`, string(r.Log))
	})
	t.Run("the process is killed", func(t *testing.T) {
		require.ErrorIs(t, syscall.Kill(before.PID, 0), syscall.ESRCH)
	})
	t.Run("the next invocation gets a new process", func(t *testing.T) {
		after := inTime(t)
		require.True(t, after.Cold)
		require.NotEqual(t, before.PID, decode(t, after).PID)
	})
}

func TestCrash(t *testing.T) {
	t.Parallel()
	s := start(t, lambda.Options{}, lambda.Function{})
	for code, why := range map[int]string{
		1: "Runtime exited with error: exit status 1",
		0: "Runtime exited without providing a reason",
	} {
		t.Run(fmt.Sprint("exit status ", code), func(t *testing.T) {
			decode(t, invoke(t, s, `{}`))
			r := invoke(t, s, fmt.Sprintf(`{"do":"crash","size":%d}`, code))
			require.False(t, r.Cold)
			require.JSONEq(t, fmt.Sprintf(`{"errorType":"Runtime.ExitError","errorMessage":"RequestId: %s Error: %s"}`, r.RequestID, why), string(r.Payload))
			require.Regexp(t, `\tStatus: error\tError Type: Runtime\.ExitError\n$`, string(r.Log))
			require.True(t, invoke(t, s, `{}`).Cold)
		})
	}
}

func TestCrashWhileIdle(t *testing.T) {
	t.Parallel()
	s := start(t, lambda.Options{}, lambda.Function{})
	pid := decode(t, invoke(t, s, `{}`)).PID
	require.NoError(t, syscall.Kill(pid, syscall.SIGKILL))
	require.Eventually(t, func() bool {
		r := invoke(t, s, `{}`)
		return r.ErrorType == "" && decode(t, r).PID != pid
	}, time.Minute, time.Millisecond, "a dead environment is replaced before its next use")
}

func TestPanic(t *testing.T) {
	t.Parallel()
	s := start(t, lambda.Options{}, lambda.Function{})
	decode(t, invoke(t, s, `{}`))
	r := invoke(t, s, `{"do":"panic"}`)
	require.Equal(t, "string", r.ErrorType)
	require.Contains(t, string(r.Payload), `"errorMessage":"oh no"`)
	require.Contains(t, string(r.Payload), `"stackTrace"`)
	require.True(t, invoke(t, s, `{}`).Cold)
}

func TestFunctionErrors(t *testing.T) {
	t.Parallel()
	s := start(t, lambda.Options{}, lambda.Function{})
	t.Run("an error with a type", func(t *testing.T) {
		r := invoke(t, s, `{"do":"error","text":"taken"}`)
		require.Equal(t, "key_conflict", r.ErrorType)
		require.JSONEq(t, `{"errorType":"key_conflict","errorMessage":"taken"}`, string(r.Payload))
	})
	t.Run("an error without a type", func(t *testing.T) {
		r := invoke(t, s, `{"do":"plain error","text":"no"}`)
		require.JSONEq(t, `{"errorType":"errorString","errorMessage":"no"}`, string(r.Payload))
	})
	t.Run("the environment is used again", func(t *testing.T) {
		require.False(t, invoke(t, s, `{}`).Cold)
	})
}

func TestResponses(t *testing.T) {
	t.Parallel()
	s := start(t, lambda.Options{}, lambda.Function{})
	t.Run("a stream of bytes", func(t *testing.T) {
		require.Equal(t, "any bytes \x00", string(invoke(t, s, `{"do":"stream","text":"any bytes \u0000"}`).Payload))
	})
	t.Run("a stream that fails midway", func(t *testing.T) {
		r := invoke(t, s, `{"do":"break off","text":"half of "}`)
		require.Equal(t, "typed", r.ErrorType)
		require.JSONEq(t, `{"errorType":"typed","errorMessage":"typed"}`, string(r.Payload))
	})
	t.Run("the largest response", func(t *testing.T) {
		require.Len(t, invoke(t, s, fmt.Sprintf(`{"do":"big","size":%d}`, lambda.MaxResponse)).Payload, lambda.MaxResponse)
	})
	t.Run("a response that is too large", func(t *testing.T) {
		r := invoke(t, s, fmt.Sprintf(`{"do":"big","size":%d}`, lambda.MaxResponse+1))
		require.JSONEq(t, `{"errorType":"Function.ResponseSizeTooLarge","errorMessage":"Response payload size exceeded maximum allowed payload size (6291556 bytes)."}`, string(r.Payload))
		require.True(t, invoke(t, s, `{}`).Cold, "aws-lambda-go exits when its response is refused")
	})
}

func TestInit(t *testing.T) {
	t.Parallel()
	hasty := start(t, lambda.Options{InitTimeout: 200 * time.Millisecond},
		lambda.Function{Name: "slow", Env: []string{"INIT=slow"}, Timeout: 300 * time.Millisecond})
	patient := start(t, lambda.Options{InitTimeout: time.Minute},
		lambda.Function{Name: "error", Env: []string{"INIT=error"}},
		lambda.Function{Name: "exit", Env: []string{"INIT=exit"}},
		lambda.Function{Name: "nothing", Path: "/nowhere/bootstrap"})
	for name, want := range map[string]string{
		"error":   `{"errorType":"Config.Missing","errorMessage":"DATABASE_URL is not set"}`,
		"exit":    `{"errorType":"Runtime.ExitError","errorMessage":"RequestId: ID Error: Runtime exited with error: exit status 3"}`,
		"slow":    `{"errorType":"Sandbox.Timedout","errorMessage":"RequestId: ID Error: Task timed out after 0.30 seconds"}`,
		"nothing": `{"errorType":"Runtime.InvalidEntrypoint","errorMessage":"RequestId: ID Error: chdir /nowhere: no such file or directory"}`,
	} {
		t.Run(name, func(t *testing.T) {
			s := patient
			if name == "slow" {
				s = hasty
			}
			r, err := s.Invoke(t.Context(), name, lambda.Request{RequestID: "ID", Tail: true})
			require.NoError(t, err)
			require.True(t, r.Cold)
			require.JSONEq(t, want, strings.Replace(string(r.Payload), "fork/exec /nowhere/bootstrap", "chdir /nowhere", 1))
			if name == "exit" {
				require.Contains(t, string(r.Log), "cannot start\n")
			}
		})
	}
}

func TestRuntimeAPIRefusals(t *testing.T) {
	t.Parallel()
	s := start(t, lambda.Options{}, lambda.Function{Env: []string{"RAW=1"}})
	r := invoke(t, s, `{}`)
	require.Equal(t, `"400 400 403 403 404"`, string(r.Payload))
	require.Contains(t, string(invoke(t, s, `{}`).Log), "END")
	require.Regexp(t, `(?m)^202 \{"status":"OK"\} 403$`, string(invoke(t, s, `{}`).Log)+string(r.Log))
}

// A buffer is a bytes.Buffer that is safe for concurrent use.
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

func TestLog(t *testing.T) {
	t.Parallel()
	var out buffer
	s := start(t, lambda.Options{Output: &out}, lambda.Function{})
	t.Run("the lines of one invocation", func(t *testing.T) {
		first := invoke(t, s, `{"do":"print","text":"hello"}`)
		require.Regexp(t, `^START RequestId: `+first.RequestID+` Version: \$LATEST
hello
and no newline
END RequestId: `+first.RequestID+`
REPORT RequestId: `+first.RequestID+"\tDuration: [0-9.]+ ms\tBilled Duration: \\d+ ms\tMemory Size: 256 MB(\tMax Memory Used: \\d+ MB)?\tInit Duration: [0-9.]+ ms\n$", string(first.Log))
		require.Equal(t, "[odd] hello\n[odd] and no newline\n", out.String())
	})
	t.Run("the next invocation has a separate log", func(t *testing.T) {
		second := invoke(t, s, `{}`)
		require.NotContains(t, string(second.Log), "hello")
		require.NotContains(t, string(second.Log), "Init Duration")
	})
	t.Run("the tail has at most 4 KiB", func(t *testing.T) {
		long := invoke(t, s, `{"do":"print","text":"`+strings.Repeat("0123456789", 3000)+`"}`)
		require.Len(t, long.Log, 4096)
		require.Contains(t, string(long.Log), "and no newline\nEND RequestId: "+long.RequestID)
	})
}

func TestInvoke_CallerStopsWaiting_FunctionRunsOn(t *testing.T) {
	t.Parallel()
	reports := make(chan lambda.Result, 2)
	s := start(t, lambda.Options{Report: func(r lambda.Result) { reports <- r }}, lambda.Function{})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := s.Invoke(ctx, "odd", lambda.Request{Payload: []byte(`{"do":"sleep","ms":400}`)})
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.Empty(t, (<-reports).ErrorType, "the function runs to its end")
}

func TestEvent(t *testing.T) {
	t.Parallel()
	reports := make(chan lambda.Result, 10)
	s := start(t, lambda.Options{
		Report:           func(r lambda.Result) { reports <- r },
		EventRetryDelays: []time.Duration{time.Millisecond, time.Millisecond},
	}, lambda.Function{})

	t.Run("a retry has the same request id", func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "tried")
		id, err := s.InvokeEvent("odd", lambda.Request{Payload: fmt.Appendf(nil, `{"do":"flaky","text":%q}`, file)})
		require.NoError(t, err)
		require.NotEmpty(t, (<-reports).ErrorType)
		require.Empty(t, (<-reports).ErrorType)
		written, err := os.ReadFile(file)
		require.NoError(t, err)
		require.Equal(t, id, string(written))
	})
	t.Run("an event runs three times at most", func(t *testing.T) {
		_, err := s.InvokeEvent("odd", lambda.Request{Payload: []byte(`{"do":"error"}`)})
		require.NoError(t, err)
		for range 3 {
			require.Equal(t, "key_conflict", (<-reports).ErrorType)
		}
		require.Never(t, func() bool { return len(reports) > 0 }, 200*time.Millisecond, 20*time.Millisecond)
	})
}

func TestEventWaitsForAnEnvironment(t *testing.T) {
	t.Parallel()
	reports := make(chan lambda.Result, 10)
	s := start(t, lambda.Options{MaxEnvironments: 1, Report: func(r lambda.Result) { reports <- r }}, lambda.Function{})
	for range 3 {
		_, err := s.InvokeEvent("odd", lambda.Request{Payload: []byte(`{"do":"sleep","ms":100}`)})
		require.NoError(t, err)
	}
	for range 3 {
		require.Empty(t, (<-reports).ErrorType)
	}
}

func TestUnknownFunction(t *testing.T) {
	t.Parallel()
	s := start(t, lambda.Options{}, lambda.Function{})
	_, err := s.Invoke(t.Context(), "nobody", lambda.Request{})
	require.ErrorIs(t, err, lambda.ErrNotFound)
	_, err = s.InvokeEvent("nobody", lambda.Request{})
	require.ErrorIs(t, err, lambda.ErrNotFound)
}

func TestClose(t *testing.T) {
	t.Parallel()
	s := start(t, lambda.Options{}, lambda.Function{})
	pid := decode(t, invoke(t, s, `{}`)).PID
	_, err := s.InvokeEvent("odd", lambda.Request{Payload: []byte(`{"do":"error"}`)})
	require.NoError(t, err)
	running := make(chan error)
	go func() {
		_, err := s.Invoke(context.Background(), "odd", lambda.Request{Payload: []byte(`{"do":"sleep","ms":60000}`)})
		running <- err
	}()
	s.Close()
	<-running //nolint:errcheck // the invocation may end before Close or by it
	t.Run("the processes are killed", func(t *testing.T) {
		require.ErrorIs(t, syscall.Kill(pid, 0), syscall.ESRCH)
	})
	t.Run("Invoke returns ErrClosed", func(t *testing.T) {
		_, err := s.Invoke(t.Context(), "odd", lambda.Request{})
		require.ErrorIs(t, err, lambda.ErrClosed)
	})
	t.Run("InvokeEvent returns ErrClosed", func(t *testing.T) {
		_, err := s.InvokeEvent("odd", lambda.Request{})
		require.ErrorIs(t, err, lambda.ErrClosed)
	})
	t.Run("it may be closed again", func(*testing.T) { s.Close() })
}

// Interrupt lets a function answer. An invocation that Interrupt or Close ends returns ErrClosed and not a function error.
func TestInterrupt(t *testing.T) {
	t.Parallel()
	s := start(t, lambda.Options{}, lambda.Function{Name: "odd", Timeout: time.Minute})
	type outcome struct {
		lambda.Result
		err error
	}
	invoke := func(payload string) <-chan outcome {
		ended := make(chan outcome, 1)
		go func() {
			r, err := s.Invoke(context.Background(), "odd", lambda.Request{Payload: []byte(payload)})
			ended <- outcome{r, err}
		}()
		return ended
	}
	dir := t.TempDir()
	began := func(name string) {
		require.Eventually(t, func() bool {
			_, err := os.Stat(filepath.Join(dir, name))
			return err == nil
		}, time.Minute, time.Millisecond)
	}
	answers := invoke(`{"do":"until SIGTERM","text":"` + filepath.Join(dir, "answers") + `"}`)
	began("answers")
	ignores := invoke(`{"do":"ignore SIGTERM","text":"` + filepath.Join(dir, "ignores") + `"}`)
	began("ignores")
	dies := invoke(`{"do":"sleep","ms":3600000,"text":"` + filepath.Join(dir, "dies") + `"}`)
	began("dies")
	s.Interrupt()
	t.Run("a function that handles SIGTERM answers", func(t *testing.T) {
		o := <-answers
		require.NoError(t, o.err)
		require.Empty(t, o.ErrorType)
		require.Contains(t, string(o.Payload), "requestId")
	})
	t.Run("a function that SIGTERM ends returns ErrClosed", func(t *testing.T) {
		require.ErrorIs(t, (<-dies).err, lambda.ErrClosed)
	})
	t.Run("the service accepts further invocations", func(t *testing.T) {
		o := <-invoke(`{}`)
		require.NoError(t, o.err)
		require.Contains(t, string(o.Payload), "requestId")
	})
	t.Run("a function that ignores SIGTERM is ended by Close", func(t *testing.T) {
		s.Close()
		require.ErrorIs(t, (<-ignores).err, lambda.ErrClosed)
	})
}
