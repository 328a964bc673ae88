package main_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/infra/local/lambda"
)

// binary is the path of the function as it is deployed.
var binary string

// TestMain builds the function with the tags of a deployment.
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

// await waits until the buffer contains the text.
func (b *buffer) await(t *testing.T, text string) {
	t.Helper()
	require.Eventually(t, func() bool { return strings.Contains(b.String(), text) }, time.Minute, 5*time.Millisecond, text)
}

// A function runs the binary through the Lambda Runtime API and receives its answers to CloudFormation.
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

// invoke calls the function directly.
func (f *function) invoke(t *testing.T, payload string) lambda.Result {
	t.Helper()
	result, err := f.service.Invoke(t.Context(), "migrate", lambda.Request{Payload: []byte(payload)})
	require.NoError(t, err)
	return result
}

// event sends an event of the custom resource and returns the function's answer to CloudFormation.
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

// sample reads a sample event of the function.
func sample(t *testing.T, name string) map[string]any {
	t.Helper()
	text, err := os.ReadFile("../../events/migrate." + name + ".json")
	require.NoError(t, err)
	var event map[string]any
	require.NoError(t, json.Unmarshal(text, &event))
	return event
}
