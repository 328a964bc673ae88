// Package main_test kills receive-webhook. It finds the process in /proc, so it runs on Linux.
package main_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/infra/local/lambda"
	"github.com/flovyn/promises/shared/app"
	"github.com/flovyn/promises/shared/config"
	"github.com/flovyn/promises/shared/dbtest"
	"github.com/flovyn/promises/shared/gateway"
	"github.com/flovyn/promises/shared/promise"
	"github.com/flovyn/promises/shared/repository"
	"github.com/flovyn/promises/shared/seal"
	"github.com/flovyn/promises/shared/webhook/rule"
)

const tenant, secret = "acme", "a secret of the test"

// A rig runs the binary of receive-webhook behind a gate.
type rig struct {
	db        *dbtest.DB
	store     *repository.Repository
	webhooks  gateway.Webhooks
	gate      *gate
	functions *lambda.Service
}

func newRig(t *testing.T) *rig {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "bootstrap")
	out, err := exec.Command("go", "build", "-tags", "lambda.norpc", "-o", binary, ".").CombinedOutput()
	require.NoError(t, err, string(out))
	db := dbtest.New(t)
	db.Tenant(t, tenant)
	r := &rig{db: db, store: repository.New(db.Pool)}
	conf := config.Config{SealingKeys: seal.Generate().Text(), SourceURLKey: strings.Repeat("4a", 32)}
	r.webhooks, err = app.NewWebhooks(conf, r.store, rule.Compile, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	var database string
	r.gate, database = newGate(t, db.URL, binary)
	r.functions = lambda.New([]lambda.Function{{Name: "receive-webhook", Path: binary, Timeout: 30 * time.Second, MemoryMB: 512, Env: []string{
		"DATABASE_URL=" + database, "HTTP_ALIAS=http", "SEALING_KEYS=" + conf.SealingKeys, "SOURCE_URL_KEY=" + conf.SourceURLKey,
	}}}, lambda.Options{Output: io.Discard, InitTimeout: time.Minute})
	t.Cleanup(r.functions.Close)
	return r
}

// source puts a source whose sender signs as GitHub does.
func (r *rig) source(t *testing.T, name, each, key string) {
	t.Helper()
	d := promise.SourceDefinition{
		Verifier: promise.SourceVerifier{Preset: "github"}, KeyPrefix: "k:", Each: each, HoldSeconds: promise.DefaultHoldSeconds,
		Rules: []promise.SourceRule{{Key: key, Then: "resolve"}},
	}
	require.NoError(t, r.webhooks.CheckDefinition(name, &d))
	_, _, _, err := r.store.PutSource(t.Context(), tenant, promise.SourcePut{
		ID: uuid.New(), Name: name, Definition: &d,
		Secret: func(id uuid.UUID, _ []promise.SourceSecret, version int) ([]byte, bool, error) {
			text := secret
			_, sealed, err := r.webhooks.NewSecret(t.Context(), d.Verifier, id, version, &text)
			return sealed, false, err
		},
	})
	require.NoError(t, err)
}

// send posts a signed body, and reports whether the answer is 200.
func (r *rig) send(t *testing.T, source, body string) (ok bool, answer string) {
	t.Helper()
	segment, err := r.webhooks.Segment(t.Context(), tenant, source)
	require.NoError(t, err)
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(body))
	event, err := json.Marshal(map[string]any{
		"version": "2.0", "routeKey": "POST /api/tenants/{slug}/webhooks/{source}", "body": body,
		"headers":        map[string]string{"x-hub-signature-256": "sha256=" + hex.EncodeToString(mac.Sum(nil))},
		"pathParameters": map[string]string{"slug": tenant, "source": segment},
		"requestContext": map[string]any{"http": map[string]string{"method": "POST"}},
	})
	require.NoError(t, err)
	result, err := r.functions.Invoke(t.Context(), "receive-webhook", lambda.Request{Payload: event, Qualifier: "http"})
	require.NoError(t, err)
	return result.ErrorType == "" && strings.Contains(string(result.Payload), `"statusCode":200`), string(result.Payload)
}

func (r *rig) create(t *testing.T, key string) {
	t.Helper()
	_, err := r.store.Create(t.Context(), tenant, promise.Draft{WorkflowExecutionID: uuid.New(), Name: "n", IdempotencyKey: &key, IdempotencyKeyTTL: time.Hour})
	require.NoError(t, err)
}

// requireSettledOnce requires that the promise of a key has the value, two events and one receipt.
func (r *rig) requireSettledOnce(t *testing.T, key, value string) {
	t.Helper()
	i, err := promise.ByIdempotencyKey(key)
	require.NoError(t, err)
	p, err := r.store.Get(t.Context(), tenant, i)
	require.NoError(t, err)
	require.Equal(t, promise.Resolved, p.State)
	require.Equal(t, value, string(p.Value))
	var events, receipts int
	var outcome string
	require.NoError(t, r.db.Pool.QueryRow(t.Context(), "SELECT COUNT(*) FROM workflow_event e WHERE e.promise_id = $1", p.ID).Scan(&events))
	require.NoError(t, r.db.Pool.QueryRow(t.Context(), "SELECT COUNT(*), MIN(outcome) FROM receipt WHERE key = $1", key).Scan(&receipts, &outcome))
	require.Equal(t, 2, events)
	require.Equal(t, 1, receipts)
	require.Equal(t, "settled", outcome)
}

// The function is killed before or after each statement of a request, and the sender repeats the request. Nothing is lost or doubled, whether the
// promise comes first or the webhook, and whether the request has one event or many.
func TestKilledAtEachStatement(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.source(t, "one", "", "'k:' + body.key")
	r.source(t, "many", "body.keys", "'k:' + item")
	for _, after := range []bool{false, true} {
		for _, early := range []bool{false, true} {
			for _, source := range []string{"one", "many"} {
				name := fmt.Sprintf("%s, killed after: %t, webhook first: %t", source, after, early)
				t.Run(name, func(t *testing.T) {
					kills := 0
					for r.survives(t, source, kills+1, after, early) {
						kills++
					}
					require.GreaterOrEqual(t, kills, 3, "the source is read, a time is written, and the webhook is stored")
				})
			}
		}
	}
}

// survives kills the function at the n-th statement of a request, and requires that a repetition completes the request. It returns false if the
// request has fewer statements.
func (r *rig) survives(t *testing.T, source string, n int, after, early bool) bool {
	t.Helper()
	id := fmt.Sprintf("%s-%d-%t-%t", source, n, after, early)
	values := map[string]string{"k:" + id: `{"key":"` + id + `"}`}
	body := values["k:"+id]
	if source == "many" {
		values = map[string]string{"k:" + id + "a": `"` + id + `a"`, "k:" + id + "b": `"` + id + `b"`}
		body = `{"keys":["` + id + `a","` + id + `b"]}`
	}
	for key := range values {
		if !early {
			r.create(t, key)
		}
	}
	r.gate.kill() // a new process reads the source
	r.db.Exec(t, "UPDATE source SET last_verified_at = NULL")
	r.gate.arm(n, after)
	ok, answer := r.send(t, source, body)
	if !ok && !r.gate.hasKilled() { // the request met the process that was killed before
		ok, answer = r.send(t, source, body)
	}
	if !r.gate.hasKilled() {
		require.True(t, ok, answer)
		return false
	}
	r.gate.arm(0, false)
	require.Eventually(t, func() bool {
		ok, answer = r.send(t, source, body)
		return ok
	}, 20*time.Second, 100*time.Millisecond, "%s", answer)
	for key, value := range values {
		if early {
			r.create(t, key)
		}
		r.requireSettledOnce(t, key, value)
	}
	return true
}
