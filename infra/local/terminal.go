package main

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/flovyn/promises/infra/local/lambda"
	"github.com/flovyn/promises/infra/local/reference"
)

// A terminal is the output that a person reads. It prints the addresses, one line for
// each invocation and one for each delivery on out, and the functions' own output on
// err.
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

// functionOutput returns the writer of the functions' lines, which come one line
// for each Write. It drops metrics, which are for CloudWatch and would crowd out
// everything else. A delivery's line is printed in the form of an invocation's.
func (t *terminal) functionOutput() io.Writer {
	return writerFunc(func(p []byte) (int, error) {
		if bytes.Contains(p, []byte(`,"_aws":{"Timestamp":`)) {
			return len(p), nil
		}
		if line, ok := deliveryLine(p); ok {
			t.printf("%s", line)
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

// building announces the build, the only slow part of a start.
func (t *terminal) building() {
	t.printf("Building the functions. The first time takes a minute.\n")
}

// temporaryKeys warns of the keys that a later runner does not have.
func (t *terminal) temporaryKeys() {
	if os.Getenv("SEALING_KEYS") == "" {
		t.printf("SEALING_KEYS is not set: destinations and sources lose their secrets when the runner stops.\n")
	}
	if os.Getenv("SOURCE_URL_KEY") == "" {
		t.printf("SOURCE_URL_KEY is not set: the URLs of sources change when the runner starts again.\n")
	}
}

// welcome prints the API key, which a person needs. The runner prints no other secret.
func (t *terminal) welcome(r ready, took time.Duration) {
	promises := r.HTTPURL + "/api/tenants/" + r.Tenant + "/promises"
	key := "stripe:ch_" + strings.ToLower(rand.Text()[:8])
	t.printf(`
Ready after %.1f s. Ctrl-C stops everything and keeps the data.

  HTTP API     %s
  reference    %[2]s%[9]s
  Lambda API   %[3]s
  tenant       %[4]s
  API key      %[5]s

Create a promise, and resolve it:

  curl -s %[6]s \
    -H 'authorization: Bearer %[5]s' -H 'content-type: application/json' \
    -d '{"workflowExecutionId":"%[7]s","name":"payment","idempotencyKey":"%[8]s"}'

  curl -s %[6]s/key:%[8]s/resolve \
    -H 'authorization: Bearer %[5]s' -H 'content-type: application/json' \
    -d '{"value":{"paid":true}}'

`, took.Seconds(), r.HTTPURL, r.LambdaURL, r.Tenant, r.APIKey, promises, uuid.NewString(), key, reference.PagePath)
}

func (t *terminal) stopping() { t.printf("\nStopping.\n") }

// invocation prints one line with function, duration, cold or warm, and status.
func (t *terminal) invocation(r lambda.Result) {
	start := "warm"
	if r.Cold {
		start = "cold"
	}
	t.printf("%s  %-16s %8.1f ms  %s  %s\n", time.Now().Format("15:04:05"), r.Function,
		float64(r.Duration)/float64(time.Millisecond), start, status(r))
}

// deliveryLine returns the line of a delivery, and reports whether a function's line
// is the log of one attempt to deliver.
func deliveryLine(p []byte) (line string, ok bool) {
	text, ok := bytes.CutPrefix(p, []byte("[relay-deliveries] "))
	var d struct {
		Time                           time.Time
		Msg, Tenant, Destination, Kind string
		Outcome, State, Error          string
		Status                         int
		Ms                             float64
	}
	if !ok || json.Unmarshal(text, &d) != nil || d.Msg != "delivery attempted" {
		return "", false
	}
	result := d.Outcome
	if d.Status != 0 {
		result += " " + strconv.Itoa(d.Status)
	}
	switch d.State {
	case d.Outcome:
	case "due":
		result += ", due again"
	default:
		result += ", " + d.State
	}
	if d.Error != "" {
		result += ": " + d.Error
	}
	return fmt.Sprintf("%s  %-16s %8.0f ms  %s  %s/%s  %s\n", d.Time.Local().Format("15:04:05"), "delivery", d.Ms, d.Kind, d.Tenant, d.Destination, result), true
}

// status returns the type of a function error, the status of an HTTP response,
// "refused" if an authorizer denied the call, or "ok". It never contains data of
// the call, which may be secret.
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
