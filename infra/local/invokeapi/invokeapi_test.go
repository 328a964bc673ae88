package invokeapi_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	sdk "github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/lambda/types"
	"github.com/aws/smithy-go"
	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/infra/local/invokeapi"
	"github.com/flovyn/promises/infra/local/lambda"
	"github.com/flovyn/promises/shared/skip"
)

var odd string // the binary of lambda/testdata/odd

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "odd")
	if err != nil {
		panic(err)
	}
	odd = filepath.Join(dir, "bootstrap")
	build := exec.Command("go", "build", "-tags", "lambda.norpc", "-o", odd, "../lambda/testdata/odd")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		panic(err)
	}
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// start serves the functions odd, short and echo, and returns the URL. Each has a second name with the prefix promises-dev-.
func start(t *testing.T, o lambda.Options) string {
	t.Helper()
	function := func(name string, timeout time.Duration, env ...string) lambda.Function {
		return lambda.Function{Name: name, Path: odd, Timeout: timeout, MemoryMB: 256, Env: env}
	}
	service := lambda.New([]lambda.Function{
		function("odd", time.Minute),
		function("short", 200*time.Millisecond),
		function("echo", time.Minute, "RETURN=event"),
	}, o)
	server := httptest.NewServer(invokeapi.Handler{Service: service, Denied: "http", Function: func(name string) string {
		return strings.TrimPrefix(name, "promises-dev-")
	}})
	t.Cleanup(func() { service.Close(); server.Close() })
	return server.URL
}

func client(url string) *sdk.Client {
	return sdk.New(sdk.Options{
		BaseEndpoint:     aws.String(url),
		Region:           "eu-central-1",
		Credentials:      credentials.NewStaticCredentialsProvider("key", "secret", ""),
		RetryMaxAttempts: 1,
	})
}

func TestRequestResponse(t *testing.T) {
	t.Parallel()
	c := client(start(t, lambda.Options{}))
	for _, name := range []string{
		"echo", "echo:$LATEST", "function:echo", "210987654321:function:echo",
		"arn:aws:lambda:eu-central-1:210987654321:function:echo",
		"arn:aws:lambda:us-east-1:123456789012:function:echo:$LATEST",
	} {
		t.Run(name, func(t *testing.T) {
			out, err := c.Invoke(t.Context(), &sdk.InvokeInput{FunctionName: &name, Payload: []byte(`{"a": "ü"}`)})
			require.NoError(t, err)
			require.EqualValues(t, 200, out.StatusCode)
			require.Equal(t, `{"a":"ü"}`, string(out.Payload))
			require.Equal(t, "$LATEST", *out.ExecutedVersion)
			require.Nil(t, out.FunctionError)
			require.Nil(t, out.LogResult)
		})
	}
	t.Run("no payload", func(t *testing.T) {
		out, err := c.Invoke(t.Context(), &sdk.InvokeInput{FunctionName: aws.String("echo")})
		require.NoError(t, err)
		require.Equal(t, `{}`, string(out.Payload))
	})
}

func TestClientContextAndQualifier(t *testing.T) {
	t.Parallel()
	c := client(start(t, lambda.Options{}))
	out, err := c.Invoke(t.Context(), &sdk.InvokeInput{
		FunctionName:  aws.String("odd"),
		Qualifier:     aws.String("$LATEST"),
		ClientContext: aws.String(base64.StdEncoding.EncodeToString([]byte("{\n \"custom\": {\"k\": \"v\"}}"))),
	})
	require.NoError(t, err)
	var seen struct {
		ARN    string
		Client map[string]string
	}
	require.NoError(t, json.Unmarshal(out.Payload, &seen))
	require.Equal(t, "arn:aws:lambda:us-east-1:123456789012:function:odd:$LATEST", seen.ARN)
	require.Equal(t, map[string]string{"k": "v"}, seen.Client)
}

// A function runs under both of its names in the same environment. Its ARN contains the name of the call.
func TestDeployedNames(t *testing.T) {
	t.Parallel()
	c := client(start(t, lambda.Options{}))
	pids := map[int]bool{}
	for name, arn := range map[string]string{
		"odd":                       "odd",
		"promises-dev-odd":          "promises-dev-odd",
		"promises-dev-odd:$LATEST":  "promises-dev-odd:$LATEST",
		"function:promises-dev-odd": "promises-dev-odd",
		"arn:aws:lambda:eu-central-1:210987654321:function:promises-dev-odd":         "promises-dev-odd",
		"arn:aws:lambda:eu-central-1:210987654321:function:promises-dev-odd:$LATEST": "promises-dev-odd:$LATEST",
	} {
		t.Run(name, func(t *testing.T) {
			out, err := c.Invoke(t.Context(), &sdk.InvokeInput{FunctionName: &name})
			require.NoError(t, err)
			var seen struct {
				ARN string
				PID int
			}
			require.NoError(t, json.Unmarshal(out.Payload, &seen))
			require.Equal(t, "arn:aws:lambda:us-east-1:123456789012:function:"+arn, seen.ARN)
			pids[seen.PID] = true
		})
	}
	t.Run("all in one environment", func(t *testing.T) { require.Len(t, pids, 1) })

	t.Run("an unknown function", func(t *testing.T) {
		_, err := c.Invoke(t.Context(), &sdk.InvokeInput{FunctionName: aws.String("promises-dev-nobody")})
		require.ErrorContains(t, err, "Function not found: arn:aws:lambda:us-east-1:123456789012:function:promises-dev-nobody")
	})
	t.Run("an unknown qualifier", func(t *testing.T) {
		_, err := c.Invoke(t.Context(), &sdk.InvokeInput{FunctionName: aws.String("promises-dev-odd"), Qualifier: aws.String("1")})
		require.ErrorContains(t, err, "Function not found: arn:aws:lambda:us-east-1:123456789012:function:promises-dev-odd:1")
	})
}

func TestFunctionErrors(t *testing.T) {
	t.Parallel()
	c := client(start(t, lambda.Options{}))
	for name, call := range map[string]struct{ function, payload, want string }{
		"an error":  {"odd", `{"do":"error","text":"taken"}`, `"errorType":"key_conflict"`},
		"a panic":   {"odd", `{"do":"panic"}`, `"errorMessage":"oh no"`},
		"a crash":   {"odd", `{"do":"crash","size":1}`, `Error: Runtime exited with error: exit status 1`},
		"a timeout": {"short", `{"do":"sleep","ms":60000}`, `Error: Task timed out after 0.20 seconds`},
	} {
		t.Run(name, func(t *testing.T) {
			out, err := c.Invoke(t.Context(), &sdk.InvokeInput{FunctionName: &call.function, Payload: []byte(call.payload)})
			require.NoError(t, err)
			require.EqualValues(t, 200, out.StatusCode)
			require.Equal(t, "Unhandled", aws.ToString(out.FunctionError))
			require.Contains(t, string(out.Payload), call.want)
		})
	}
}

func TestTail(t *testing.T) {
	t.Parallel()
	c := client(start(t, lambda.Options{}))
	out, err := c.Invoke(t.Context(), &sdk.InvokeInput{
		FunctionName: aws.String("odd"), Payload: []byte(`{"do":"print","text":"hello"}`), LogType: types.LogTypeTail,
	})
	require.NoError(t, err)
	log, err := base64.StdEncoding.DecodeString(*out.LogResult)
	require.NoError(t, err)
	require.Regexp(t, `(?s)^START RequestId: (\S+) Version: \$LATEST\nhello\nand no newline\nEND RequestId: \S+\nREPORT RequestId: `, string(log))
}

func TestEvent(t *testing.T) {
	t.Parallel()
	reports := make(chan lambda.Result, 1)
	c := client(start(t, lambda.Options{Report: func(r lambda.Result) { reports <- r }}))
	out, err := c.Invoke(t.Context(), &sdk.InvokeInput{FunctionName: aws.String("echo"), Payload: []byte(`[1]`), InvocationType: types.InvocationTypeEvent})
	require.NoError(t, err)
	require.EqualValues(t, 202, out.StatusCode)
	require.Empty(t, out.Payload)
	require.Nil(t, out.FunctionError)
	r := <-reports
	require.Equal(t, `[1]`, string(r.Payload))
}

func TestDryRun(t *testing.T) {
	t.Parallel()
	c := client(start(t, lambda.Options{Report: func(lambda.Result) { t.Error("it ran") }}))
	out, err := c.Invoke(t.Context(), &sdk.InvokeInput{FunctionName: aws.String("echo"), InvocationType: types.InvocationTypeDryRun})
	require.NoError(t, err)
	require.EqualValues(t, 204, out.StatusCode)
	require.Empty(t, out.Payload)
}

func TestErrors(t *testing.T) {
	t.Parallel()
	c := client(start(t, lambda.Options{Report: func(lambda.Result) { t.Error("it ran") }}))
	fits := func(n int) []byte { return append(append([]byte{'"'}, bytes.Repeat([]byte{'x'}, n-2)...), '"') }
	for name, call := range map[string]struct {
		in     sdk.InvokeInput
		status int
		code   string
		says   string
	}{
		"an unknown function": {sdk.InvokeInput{FunctionName: aws.String("nobody")},
			404, "ResourceNotFoundException", "Function not found: arn:aws:lambda:us-east-1:123456789012:function:nobody"},
		"a dry run of an unknown function": {sdk.InvokeInput{FunctionName: aws.String("nobody"), InvocationType: types.InvocationTypeDryRun},
			404, "ResourceNotFoundException", "Function not found: "},
		"an unknown qualifier": {sdk.InvokeInput{FunctionName: aws.String("echo:live")},
			404, "ResourceNotFoundException", "Function not found: arn:aws:lambda:us-east-1:123456789012:function:echo:live"},
		"the denied qualifier": {sdk.InvokeInput{FunctionName: aws.String("echo:http")},
			403, "AccessDeniedException", lambda.ARN("echo") + ":http because"},
		"an ARN with the denied qualifier": {sdk.InvokeInput{FunctionName: aws.String(lambda.ARN("echo") + ":http")},
			403, "AccessDeniedException", "is not authorized to perform"},
		"the denied qualifier as a parameter": {sdk.InvokeInput{FunctionName: aws.String("echo"), Qualifier: aws.String("http")},
			403, "AccessDeniedException", "lambda:InvokeFunction"},
		"a dry run of an unknown function with the denied qualifier": {sdk.InvokeInput{FunctionName: aws.String("nobody:http"), InvocationType: types.InvocationTypeDryRun},
			403, "AccessDeniedException", ""},
		"an event with the denied qualifier": {sdk.InvokeInput{FunctionName: aws.String("echo:http"), InvocationType: types.InvocationTypeEvent},
			403, "AccessDeniedException", ""},
		"two qualifiers": {sdk.InvokeInput{FunctionName: aws.String("echo:$LATEST"), Qualifier: aws.String("live")},
			400, "InvalidParameterValueException", "derived qualifier"},
		"an invalid name": {sdk.InvokeInput{FunctionName: aws.String("no such/name")},
			400, "ValidationException", "'no such/name'"},
		"an unknown invocation type": {sdk.InvokeInput{FunctionName: aws.String("echo"), InvocationType: "Later"},
			400, "InvalidParameterValueException", "Later"},
		"a payload that is not JSON": {sdk.InvokeInput{FunctionName: aws.String("echo"), Payload: []byte(`{"a":`)},
			400, "InvalidRequestContentException", "Could not parse request body into json: "},
		"a payload that is not UTF-8": {sdk.InvokeInput{FunctionName: aws.String("echo"), Payload: []byte("\"\xff\"")},
			400, "InvalidRequestContentException", "UTF-8"},
		"an invalid client context": {sdk.InvokeInput{FunctionName: aws.String("echo"), ClientContext: aws.String("?")},
			400, "InvalidRequestContentException", "Client context"},
		"a payload that is too large": {sdk.InvokeInput{FunctionName: aws.String("echo"), Payload: fits(lambda.MaxPayload + 1)},
			413, "RequestEntityTooLargeException", "Request must be smaller than 6291456 bytes for the InvokeFunction operation"},
		"an event that is too large": {sdk.InvokeInput{FunctionName: aws.String("echo"), Payload: fits(lambda.MaxEventPayload + 1), InvocationType: types.InvocationTypeEvent},
			413, "RequestEntityTooLargeException", "1048577 byte payload is too large for the Event invocation type (limit 1048576 bytes)"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := c.Invoke(t.Context(), &call.in)
			var api smithy.APIError
			require.ErrorAs(t, err, &api)
			require.Equal(t, call.code, api.ErrorCode())
			require.Contains(t, api.ErrorMessage(), call.says)
			var response interface{ HTTPStatusCode() int }
			require.ErrorAs(t, err, &response)
			require.Equal(t, call.status, response.HTTPStatusCode())
			var requestID interface{ ServiceRequestID() string }
			require.ErrorAs(t, err, &requestID)
			require.Len(t, requestID.ServiceRequestID(), 36)
		})
	}
	t.Run("another operation", func(t *testing.T) {
		_, err := c.GetFunction(t.Context(), &sdk.GetFunctionInput{FunctionName: aws.String("echo")})
		require.ErrorContains(t, err, "UnknownOperationException")
	})
}

func TestLargestPayload(t *testing.T) {
	t.Parallel()
	c := client(start(t, lambda.Options{}))
	payload := []byte(`"` + strings.Repeat("x", lambda.MaxPayload-2) + `"`)
	out, err := c.Invoke(t.Context(), &sdk.InvokeInput{FunctionName: aws.String("echo"), Payload: payload})
	require.NoError(t, err)
	require.True(t, bytes.Equal(payload, out.Payload))
}

func TestThrottle(t *testing.T) {
	t.Parallel()
	c := client(start(t, lambda.Options{MaxEnvironments: 1}))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() {
		for ctx.Err() == nil { // repeat until it occupies the only environment
			c.Invoke(ctx, &sdk.InvokeInput{FunctionName: aws.String("odd"), Payload: []byte(`{"do":"sleep","ms":60000}`)}) //nolint:errcheck // this call may be throttled too
		}
	}()
	var throttled *types.TooManyRequestsException
	require.Eventually(t, func() bool {
		_, err := c.Invoke(t.Context(), &sdk.InvokeInput{FunctionName: aws.String("echo")})
		return errors.As(err, &throttled)
	}, time.Minute, time.Millisecond)
	require.Equal(t, types.ThrottleReasonConcurrentInvocationLimitExceeded, throttled.Reason)
	require.Equal(t, "User", aws.ToString(throttled.Type))
	require.Equal(t, "1", aws.ToString(throttled.RetryAfterSeconds))
	require.Equal(t, "Rate Exceeded.", throttled.ErrorMessage())
}

func TestTraceHeader(t *testing.T) {
	t.Parallel()
	req, err := http.NewRequest("POST", start(t, lambda.Options{})+"/2015-03-31/functions/odd/invocations", strings.NewReader("{}"))
	require.NoError(t, err)
	req.Header.Set("X-Amzn-Trace-Id", "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1")
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	var seen struct{ TraceID string }
	require.NoError(t, json.NewDecoder(resp.Body).Decode(&seen))
	require.True(t, strings.HasPrefix(seen.TraceID, "Root=1-5759e988-bd862e3fe1be46a994272793;"), seen.TraceID)
	require.Equal(t, "Root=1-5759e988-bd862e3fe1be46a994272793;Sampled=0", resp.Header.Get("X-Amzn-Trace-Id"))
}

func TestCLI(t *testing.T) {
	t.Parallel()
	skip.Without(t, "aws", "the AWS CLI: the Invoke API is not tried with it")
	url := start(t, lambda.Options{})
	version, err := exec.Command("aws", "--version").CombinedOutput()
	require.NoError(t, err)
	aws := func(t *testing.T, args ...string) (stdout, payload string, err error) {
		t.Helper()
		out := filepath.Join(t.TempDir(), "out")
		args = append([]string{"lambda", "invoke", "--endpoint-url", url, "--output", "json"}, args...)
		if !strings.HasPrefix(string(version), "aws-cli/1.") {
			args = append(args, "--cli-binary-format", "raw-in-base64-out")
		}
		cmd := exec.CommandContext(t.Context(), "aws", append(args, out)...)
		cmd.Env = append(os.Environ(), "AWS_EC2_METADATA_DISABLED=true", "AWS_REGION=eu-west-1", "AWS_DEFAULT_REGION=eu-west-1", "AWS_PAGER=",
			"AWS_ACCESS_KEY_ID=key", "AWS_SECRET_ACCESS_KEY=secret", "AWS_CONFIG_FILE=/dev/null", "AWS_SHARED_CREDENTIALS_FILE=/dev/null")
		b, err := cmd.CombinedOutput()
		written, _ := os.ReadFile(out)
		return string(b), string(written), err
	}
	t.Run("a response", func(t *testing.T) {
		stdout, payload, err := aws(t, "--function-name", "echo", "--payload", `{"a":1}`)
		require.NoError(t, err, stdout)
		require.JSONEq(t, `{"StatusCode":200,"ExecutedVersion":"$LATEST"}`, stdout)
		require.Equal(t, `{"a":1}`, payload)
	})
	t.Run("a function error with a log", func(t *testing.T) {
		stdout, payload, err := aws(t, "--function-name", "odd", "--payload", `{"do":"error"}`, "--log-type", "Tail")
		require.NoError(t, err, stdout)
		require.Contains(t, stdout, `"FunctionError": "Unhandled"`)
		require.Contains(t, stdout, `"LogResult"`)
		require.Contains(t, payload, "key_conflict")
	})
	t.Run("an event", func(t *testing.T) {
		stdout, _, err := aws(t, "--function-name", "echo", "--invocation-type", "Event")
		require.NoError(t, err, stdout)
		require.JSONEq(t, `{"StatusCode":202}`, stdout)
	})
	t.Run("an unknown function", func(t *testing.T) {
		stdout, _, err := aws(t, "--function-name", "nobody")
		require.Error(t, err)
		require.Contains(t, stdout, "(ResourceNotFoundException) when calling the Invoke operation: Function not found: ")
	})
}
