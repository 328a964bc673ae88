package build_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/infra/build"
	"github.com/flovyn/promises/shared/auth"
	"github.com/flovyn/promises/shared/dbtest"
	"github.com/flovyn/promises/shared/promise"
	"github.com/flovyn/promises/shared/repository"
	"github.com/flovyn/promises/shared/routes"
	"github.com/flovyn/promises/shared/seal"
	"github.com/flovyn/promises/shared/webhook"
)

// BenchmarkStart prints for each function, and for an empty one, the size as deployed and two times on this machine: from the
// start to the first poll of the Runtime API, and to the answer of the first call, which uses the database. A function without
// a payload here gets no call. The functions are started in turns, so that the ratios stay correct when the machine's speed
// drifts.
func BenchmarkStart(b *testing.B) {
	deployed, native := b.TempDir(), b.TempDir()
	require.NoError(b, build.Functions(b.Context(), deployed, build.Lambda))
	require.NoError(b, build.Functions(b.Context(), native, build.Target{}))
	for dir, target := range map[string]build.Target{deployed: build.Lambda, native: {}} {
		path := build.Binary(dir, "empty")
		require.NoError(b, os.MkdirAll(filepath.Dir(path), 0o755))
		_, err := build.GoTool(b.Context(), "", target, append(append([]string{"build"}, build.Flags...), "-o", path, "./testdata/empty")...)
		require.NoError(b, err)
	}

	db := dbtest.New(b)
	db.Tenant(b, "acme")
	store := repository.New(db.Pool)
	key := auth.NewAPIKey()
	_, err := store.CreateAPIKey(b.Context(), promise.APIKey{Tenant: "acme", Name: "n", Hash: auth.HashAPIKey(key), Scopes: promise.Scopes})
	require.NoError(b, err)
	workflow := uuid.New()
	n := 0
	draft := func() promise.Draft {
		n++
		k := fmt.Sprint("k", n)
		return promise.Draft{WorkflowExecutionID: workflow, Name: fmt.Sprint("n", n), IdempotencyKey: &k, IdempotencyKeyTTL: time.Hour}
	}
	payloads := map[string]func() string{
		"empty":           func() string { return "{}" },
		"migrate":         func() string { return "{}" },
		"expire-promises": func() string { return `{"once":true}` },
		"manage-tenants":  func() string { return `{"action":"list-tenants"}` },
		"list-promises":   func() string { return `{"tenant":"acme"}` },
		"authorize": func() string {
			return `{"version":"2.0","type":"REQUEST","identitySource":["Bearer ` + key + `"],"headers":{"authorization":"Bearer ` + key + `"},
				"routeKey":"GET /x","rawPath":"/x","requestContext":{"http":{"method":"GET","path":"/x"}}}`
		},
		"create-promise": func() string {
			d := draft()
			return fmt.Sprintf(`{"tenant":"acme","workflowExecutionId":"%s","name":"%s"}`, workflow, d.Name)
		},
	}
	payloadOf := func(format string) func() string { // of a call for a new promise
		return func() string {
			made, err := store.Create(b.Context(), "acme", draft())
			require.NoError(b, err)
			return strings.NewReplacer("ID", made.Promise.ID.String(), "KEY", fmt.Sprint("k", n), "WORKFLOW", workflow.String()).Replace(format)
		}
	}
	for name, format := range map[string]string{
		"resolve":        `{"tenant":"acme","promiseId":"ID","value":1}`,
		"resolve-by-id":  `{"tenant":"acme","promiseId":"ID","value":1}`,
		"resolve-by-key": `{"tenant":"acme","key":"KEY","value":1}`,
		"reject":         `{"tenant":"acme","promiseId":"ID","error":"no"}`,
		"cancel-promise": `{"tenant":"acme","promiseId":"ID"}`,
		"extend-promise": `{"tenant":"acme","promiseId":"ID","timeoutMs":60000}`,
		"get-promise":    `{"tenant":"acme","promiseId":"ID"}`,
		"batch-resolve":  `{"tenant":"acme","items":[{"identifier":"id:ID","value":1}]}`,
		"list-events":    `{"tenant":"acme","workflowExecutionId":"WORKFLOW"}`,
	} {
		payloads[name] = payloadOf(format)
	}

	url, sealing := webhook.NewURLKey(), seal.Generate().Text()
	env := []string{"DATABASE_URL=" + db.URL, "SOURCE_URL_KEY=" + url.Text(), "SEALING_KEYS=" + sealing}
	const secret = "whsec_benchmark"
	start(b, build.Binary(native, "manage-integrations"), env, `{"tenant":"acme","action":"put-source","name":"stripe","verifier":{"preset":"stripe"},
		"secret":"`+secret+`","keyPrefix":"k","rules":[{"when":"body.type == 'charge.succeeded'","key":"body.data.object.id","then":"resolve"}]}`)
	payloads["receive-webhook"] = func() string {
		body := payloadOf(`{"id":"evt_ID","type":"charge.succeeded","data":{"object":{"id":"KEY","amount":4200,"captured":true}}}`)()
		return stripeEvent(b, url.Segment("acme", "stripe"), secret, body)
	}

	names := []string{"empty"}
	for _, f := range routes.Functions {
		names = append(names, f.Name)
	}
	const starts = 20
	polls, answers := map[string][]time.Duration{}, map[string][]time.Duration{}
	for b.Loop() {
		for range starts {
			for _, name := range names {
				payload := ""
				if made := payloads[name]; made != nil {
					payload = made()
				}
				poll, answer := start(b, build.Binary(native, name), env, payload)
				if polls[name] = append(polls[name], poll); payload != "" {
					answers[name] = append(answers[name], answer)
				}
			}
		}
	}

	var table strings.Builder
	w := tabwriter.NewWriter(&table, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "\nfunction\tarm64 bytes\tfirst poll\tof empty\tfirst answer")
	worst := 0.0
	for _, name := range names {
		stat, err := os.Stat(build.Binary(deployed, name))
		require.NoError(b, err)
		ratio := float64(median(polls[name])) / float64(median(polls["empty"]))
		worst = max(worst, ratio)
		answer := "no call"
		if len(answers[name]) > 0 {
			answer = fmt.Sprintf("%.1f ms", ms(median(answers[name])))
		}
		fmt.Fprintf(w, "%s\t%d\t%.1f ms\t%.2f\t%s\n", name, stat.Size(), ms(median(polls[name])), ratio, answer)
	}
	w.Flush()                   //nolint:errcheck // it writes to memory
	fmt.Println(table.String()) // b.Log would cut it
	b.ReportMetric(worst, "poll-of-empty")
	b.ReportMetric(ms(median(answers["resolve-by-id"])), "ms-to-settled")
	b.ReportMetric(float64(median(polls["receive-webhook"]))/float64(median(polls["resolve"])), "webhook-poll-of-resolve")
	b.ReportMetric(float64(median(answers["receive-webhook"]))/float64(median(answers["resolve"])), "webhook-answer-of-resolve")
}

// stripeEvent returns the event of a webhook that is signed as Stripe does.
func stripeEvent(b *testing.B, segment, secret, body string) string {
	b.Helper()
	at := strconv.FormatInt(time.Now().Unix(), 10)
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(at + "." + body))
	const path = "/api/tenants/acme/webhooks/"
	event, err := json.Marshal(map[string]any{
		"version": "2.0", "routeKey": "POST /api/tenants/{slug}/webhooks/{source}", "rawPath": path + segment, "rawQueryString": "",
		"headers":        map[string]string{"content-type": "application/json", "stripe-signature": "t=" + at + ",v1=" + hex.EncodeToString(mac.Sum(nil))},
		"requestContext": map[string]any{"http": map[string]string{"method": "POST", "path": path + segment}},
		"pathParameters": map[string]string{"slug": "acme", "source": segment}, "body": body, "isBase64Encoded": false,
	})
	require.NoError(b, err)
	return string(event)
}

func median(d []time.Duration) time.Duration {
	d = slices.Sorted(slices.Values(d))
	return d[len(d)/2]
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// start starts a function, sends it one call if there is a payload, and ends it.
func start(b *testing.B, path string, env []string, payload string) (poll, answer time.Duration) {
	b.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(b, err)
	polled, answered := make(chan time.Time, 10), make(chan error, 1)
	mux := http.NewServeMux()
	calls := 0
	end := make(chan struct{})
	mux.HandleFunc("GET /2018-06-01/runtime/invocation/next", func(w http.ResponseWriter, r *http.Request) {
		polled <- time.Now()
		if calls++; calls > 1 || payload == "" { // the function waits for the next call until it is killed
			select {
			case <-end:
			case <-r.Context().Done():
			}
			return
		}
		w.Header().Set("Lambda-Runtime-Aws-Request-Id", uuid.NewString())
		w.Header().Set("Lambda-Runtime-Deadline-Ms", fmt.Sprint(time.Now().Add(time.Minute).UnixMilli()))
		io.WriteString(w, payload) //nolint:errcheck // the answer shows whether it arrived
	})
	mux.HandleFunc("POST /2018-06-01/runtime/invocation/{id}/{what}", func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if r.PathValue("what") != "response" || strings.Contains(string(body), `"isAuthorized":false`) ||
			strings.Contains(string(body), `"statusCode"`) && !strings.Contains(string(body), `\"outcome\":\"settled\"`) {
			err = fmt.Errorf("%s: %s", payload, body)
		}
		w.WriteHeader(http.StatusAccepted)
		answered <- err
	})
	server := &http.Server{Handler: mux}
	go server.Serve(l) //nolint:errcheck // it returns an error when it is closed
	defer server.Close()
	defer close(end)

	cmd := exec.Command(path)
	cmd.Env = append(slices.Clone(env),
		"AWS_LAMBDA_RUNTIME_API="+l.Addr().String(), "AWS_LAMBDA_FUNCTION_NAME=f", "HTTP_ALIAS=", "LOG_LEVEL=error")
	begun := time.Now()
	require.NoError(b, cmd.Start())
	defer cmd.Wait()         //nolint:errcheck // it was killed
	defer cmd.Process.Kill() //nolint:errcheck // it may have ended
	select {
	case at := <-polled:
		poll = at.Sub(begun)
	case <-time.After(10 * time.Second):
		require.Fail(b, "the function did not poll within 10 s", path)
	}
	if payload == "" {
		return poll, 0
	}
	select {
	case err := <-answered:
		require.NoError(b, err)
	case <-time.After(10 * time.Second):
		require.Fail(b, "the function did not answer within 10 s", path)
	}
	return poll, time.Since(begun)
}
