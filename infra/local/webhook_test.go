package main

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/skip"
)

// putSource puts a source with the preset github. It returns its URL, and the secret if the service made it.
func (r *runner) putSource(t *testing.T, name, fields string) (url, secret string) {
	t.Helper()
	status, made := r.call(t, "PUT", "/sources/"+name, `{"verifier":{"preset":"github"},`+fields+`}`)
	require.Equal(t, 201, status, "%v\n%s", made, &r.stderr)
	secret, _ = made["secret"].(string)
	return made["url"].(string), secret
}

// postWebhook posts a JSON body as GitHub does, signed with the secret.
func postWebhook(url, secret, body string) (status int, answer []byte, err error) {
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(body))
	req, err := http.NewRequest(http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("X-Hub-Signature-256", "sha256="+hex.EncodeToString(mac.Sum(nil)))
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	answer, err = io.ReadAll(resp.Body)
	return resp.StatusCode, answer, err
}

var webhookPairs = flag.Int("webhooks.pairs", 200, "number of webhooks that race with the creates of their promises")

// A webhookRace is one webhook that is sent twice, and one create of its promise.
type webhookRace struct {
	body     string
	outcomes [2]string // of the two requests
	created  string    // the promise's state in the answer of the create
}

// Each promise is settled once, with the bytes of its webhook, whether the webhook comes before the create, during it or after it. The
// sender repeats each webhook, and both requests get a final answer or wait for the promise.
func TestWebhooksRaceCreates(t *testing.T) {
	t.Parallel()
	r := startRunner(t)
	url, secret := r.putSource(t, "ci", `"keyPrefix":"run:","rules":[{"key":"'run:' + string(body.run)","then":"resolve"}]`)
	races := make([]webhookRace, *webhookPairs)
	errs := make(chan error, 3*len(races))
	var pairs sync.WaitGroup
	slots := make(chan struct{}, 8)
	for n := range races {
		slots <- struct{}{}
		pairs.Go(func() {
			defer func() { <-slots }()
			for _, err := range races[n].run(r, url, secret, n) {
				errs <- err
			}
		})
	}
	pairs.Wait()
	close(errs)
	for err := range errs {
		require.NoError(t, err)
	}
	seen := map[string]int{}
	for _, race := range races {
		seen["create answered "+race.created]++
		for _, outcome := range race.outcomes {
			seen["webhook answered "+outcome]++
		}
	}
	t.Logf("%d pairs: %v", len(races), seen)
	t.Run("webhooks came before creates and after them", func(t *testing.T) {
		require.Positive(t, seen["create answered pending"])
		require.Positive(t, seen["create answered resolved"])
		require.Positive(t, seen["webhook answered held"])
		require.Positive(t, seen["webhook answered settled"])
	})
	conn, err := pgx.Connect(t.Context(), r.ready.DatabaseURL)
	require.NoError(t, err)
	defer conn.Close(t.Context()) //nolint:errcheck // nothing is lost with it
	t.Run("each promise has the bytes of its webhook", func(t *testing.T) {
		for n, race := range races {
			var value, by string
			require.NoError(t, conn.QueryRow(t.Context(), `SELECT convert_from(value, 'UTF8'), settled_by_kind || ' ' || settled_by_id FROM promise
				WHERE idempotency_key = $1 AND outcome = 'resolved'`, fmt.Sprint("run:", n)).Scan(&value, &by), "pair %d: %+v", n, race)
			require.Equal(t, race.body, value)
			require.Equal(t, "webhook ci", by)
		}
	})
	for what, sql := range map[string]string{
		"each promise was settled once":      "SELECT COUNT(*) FROM workflow_event WHERE event_type = 'PROMISE_RESOLVED'",
		"each webhook has one final receipt": "SELECT COUNT(*) FROM receipt WHERE outcome = 'settled' AND promise_id IS NOT NULL",
		"and no other receipt":               "SELECT COUNT(*) FROM receipt",
	} {
		t.Run(what, func(t *testing.T) {
			var n int
			require.NoError(t, conn.QueryRow(t.Context(), sql).Scan(&n))
			require.Equal(t, len(races), n)
		})
	}
	r.stop(t, syscall.SIGINT)
}

// run creates the promise and sends the webhook twice, each at a random moment of a few milliseconds.
func (w *webhookRace) run(r *runner, url, secret string, n int) (errs [3]error) {
	w.body = fmt.Sprintf(`{"run": %d, "at": %q}`, n, uuid.NewString())
	soon := func() { time.Sleep(rand.N(12 * time.Millisecond)) }
	var calls sync.WaitGroup
	for i := range w.outcomes {
		calls.Go(func() {
			soon()
			var a struct{ Outcome string }
			status, answer, err := postWebhook(url, secret, w.body)
			if err == nil && (status != http.StatusOK || json.Unmarshal(answer, &a) != nil) {
				err = fmt.Errorf("webhook %d answered %d %s", n, status, answer)
			}
			w.outcomes[i], errs[i] = a.Outcome, err
		})
	}
	calls.Go(func() {
		soon()
		status, body, err := r.post("/promises", fmt.Sprintf(`{"workflowExecutionId":%q,"name":"run","idempotencyKey":"run:%d"}`, uuid.NewString(), n))
		var p struct{ State string }
		if err == nil && (status != http.StatusCreated || json.Unmarshal(body, &p) != nil) {
			err = fmt.Errorf("create %d answered %d %s", n, status, body)
		}
		w.created, errs[2] = p.State, err
	})
	calls.Wait()
	return errs
}

// post calls a path of the demo tenant's API.
func (r *runner) post(path, body string) (status int, answer []byte, err error) {
	req, err := http.NewRequest(http.MethodPost, r.promises(path), strings.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	req.Header.Set("Authorization", "Bearer "+r.ready.APIKey)
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	answer, err = io.ReadAll(resp.Body)
	return resp.StatusCode, answer, err
}

// The recipes of the guide run as they are printed, except for the address and the API key in the first block.
func TestWebhookGuide(t *testing.T) {
	t.Parallel()
	for _, tool := range []string{"bash", "curl", "openssl"} {
		skip.Without(t, tool, "which the recipes of the guide use")
	}
	guide, err := os.ReadFile("../../shared/webhook/README.md")
	require.NoError(t, err)
	var blocks []string
	for _, m := range regexp.MustCompile("(?s)\n```sh\n(.*?)```\n").FindAllStringSubmatch(string(guide), -1) {
		blocks = append(blocks, m[1])
	}
	r := startRunner(t)
	setup := strings.NewReplacer("http://127.0.0.1:3000", r.ready.HTTPURL, "prk_...", r.ready.APIKey).Replace(blocks[0])
	require.Contains(t, setup, r.ready.HTTPURL)
	require.Contains(t, setup, r.ready.APIKey)
	for n, c := range []struct {
		name, key, value string
		outcomes         []string // that the recipe prints
	}{
		{
			"Stripe", "stripe:ch_abc123", `{"id":"evt_1","type":"charge.succeeded","data":{"object":{"id":"ch_abc123","captured":true,"amount":4200}}}`,
			[]string{"settled"},
		},
		{
			"GitHub", "github:run:30433642",
			`{"action":"completed","workflow_run":{"id":30433642,"conclusion":"success"},"repository":{"full_name":"acme/shop"}}`, []string{"settled"},
		},
		{
			"Slack", "slack:leave-31", `{"user":{"id":"U7","username":"anna"},"actions":[{"action_id":"promise.resolve","value":"leave-31"}]}`, nil,
		},
		{"a sender that signs with HMAC", "order-9007199254740993", `{"parcel":"P-1"}`, []string{"held", "settled"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			cmd := exec.Command("bash", "-euo", "pipefail", "-c", setup+blocks[n+1])
			var stderr bytes.Buffer
			cmd.Stderr = &stderr
			out, err := cmd.Output()
			require.NoError(t, err, "%s\n%s\n%s", out, &stderr, &r.stderr)
			var outcomes []string
			for _, m := range regexp.MustCompile(`"outcome":"(\w+)"`).FindAllStringSubmatch(string(out), -1) {
				outcomes = append(outcomes, m[1])
			}
			require.Equal(t, c.outcomes, outcomes, "%s", out)
			status, p := r.call(t, "GET", "/promises/key:"+c.key, "")
			require.Equal(t, 200, status, "%v\n%s", p, out)
			require.Equal(t, "resolved", p["state"])
			value, err := json.Marshal(p["value"])
			require.NoError(t, err)
			require.JSONEq(t, c.value, string(value))
			require.Contains(t, string(out), `"state":"resolved"`, "the recipe shows the promise")
		})
	}
	require.Len(t, blocks, 5, "each recipe of the guide is tried")
	r.stop(t, syscall.SIGINT)
}
