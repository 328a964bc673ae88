package main

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/flovyn/promises/infra/local/lambda"
)

// terminal is what a person sees: on out the addresses and one line for each
// invocation, on err what the functions print.
type terminal struct {
	mu       sync.Mutex
	out, err io.Writer
}

type lockedWriter struct {
	t *terminal
	w io.Writer
}

func (l lockedWriter) Write(p []byte) (int, error) {
	l.t.mu.Lock()
	defer l.t.mu.Unlock()
	return l.w.Write(p)
}

// functionOutput takes the functions' lines, one Write for each. Their metrics,
// which are for CloudWatch, would be most of what a person sees.
func (t *terminal) functionOutput() io.Writer {
	return writerFunc(func(p []byte) (int, error) {
		if bytes.Contains(p, []byte(`,"_aws":{"Timestamp":`)) {
			return len(p), nil
		}
		return lockedWriter{t, t.err}.Write(p)
	})
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func (t *terminal) printf(format string, args ...any) {
	fmt.Fprintf(lockedWriter{t, t.out}, format, args...)
}

// building comes before the one part of a start that takes long.
func (t *terminal) building() {
	t.printf("Building the functions. The first time takes a minute.\n")
}

// welcome shows the one secret that a person needs. Nothing else shows any.
func (t *terminal) welcome(r ready, took time.Duration) {
	promises := r.HTTPURL + "/api/tenants/" + r.Tenant + "/promises"
	key := "stripe:ch_" + strings.ToLower(rand.Text()[:8])
	t.printf(`
Ready after %.1f s. Ctrl-C stops everything and leaves the data.

  HTTP API     %s
  Lambda API   %s
  tenant       %s
  API key      %s

Create a promise, and resolve it:

  curl -s %[6]s \
    -H 'authorization: Bearer %[5]s' -H 'content-type: application/json' \
    -d '{"workflowExecutionId":"%[7]s","name":"payment","idempotencyKey":"%[8]s"}'

  curl -s %[6]s/key:%[8]s/resolve \
    -H 'authorization: Bearer %[5]s' -H 'content-type: application/json' \
    -d '{"value":{"paid":true}}'

`, took.Seconds(), r.HTTPURL, r.LambdaURL, r.Tenant, r.APIKey, promises, uuid.NewString(), key)
}

func (t *terminal) goodbye() { t.printf("\nStopping.\n") }

// invocation prints one line: function, duration, cold or warm, status.
func (t *terminal) invocation(r lambda.Result) {
	start := "warm"
	if r.Cold {
		start = "cold"
	}
	t.printf("%s  %-16s %8.1f ms  %s  %s\n", time.Now().Format("15:04:05"), r.Function,
		float64(r.Duration)/float64(time.Millisecond), start, status(r))
}

// status is the type of a function error, the status of an HTTP response, what
// an authorizer says, or ok. It never tells what a call was about: that may be a
// secret.
func status(r lambda.Result) string {
	if r.ErrorType != "" {
		return r.ErrorType
	}
	var response struct {
		StatusCode   int
		IsAuthorized *bool
	}
	switch err := json.Unmarshal(r.Payload, &response); {
	case err != nil:
	case response.StatusCode != 0:
		return strconv.Itoa(response.StatusCode)
	case response.IsAuthorized != nil && !*response.IsAuthorized:
		return "refused"
	}
	return "ok"
}
