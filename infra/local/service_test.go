package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/skip"
)

// TestSampleEvents invokes the complete service with the sample events that need no existing promise. The events build on each other.
func TestSampleEvents(t *testing.T) {
	t.Parallel()
	r := startRunner(t)
	for _, c := range []struct{ event, want string }{
		{"create-promise.http", `"errorType":"forbidden"`},
		{"create-promise.direct", `"created":true`},
		{"create-promise.direct", `"created":false`},
		{"get-promise.http-key", `"errorType":"forbidden"`},
		{"resolve-by-key.bad-event", `"errorType":"forbidden"`},
		{"resolve-by-key.direct", `"outcome":"settled"`},
		{"resolve-by-key.direct", `"outcome":"duplicate"`},
		{"reject.direct", `"outcome":"conflict"`},
		{"expire-promises.once", `{"expired":0,"keysDeleted":0,"holdsExpired":0,"promisesDeleted":0,"eventsDeleted":0,"workflowsDeleted":0}`},
		{"migrate.direct", `{"version":22,"applied":[],"signingKey":"ed25519:`},
		{"migrate.direct-dry-run", `{"version":22,"files":[],"before":{"idempotency_key":1,"promise":1,`},
	} {
		t.Run(c.event, func(t *testing.T) {
			payload, err := os.ReadFile("../../events/" + c.event + ".json")
			require.NoError(t, err)
			function, _, _ := strings.Cut(c.event, ".")
			out := r.lambda(t, function, string(payload))
			require.Contains(t, string(out.Payload), c.want)
		})
	}
	for _, payload := range []string{`{"dryrun":true}`, `{"dryRun":"true"}`, `{"dryRun":1}`, `{"dryRun":true,"x":true}`, `[]`} {
		for _, function := range []string{"migrate", "expire-promises"} {
			t.Run(function+" refuses "+payload, func(t *testing.T) {
				require.Contains(t, string(r.lambda(t, function, payload).Payload), `"errorType":"invalid_payload"`)
			})
		}
	}
	r.stop(t, syscall.SIGINT)
}

// TestKilled settles promises while functions are killed, and kills the database at the end. Every answered settlement is stored, and an
// unanswered one is stored completely or not at all.
func TestKilled(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		skip.Now(t, "the functions' processes are found in /proc")
	}
	data := filepath.Join(tempFolder(t), "data")
	r := startWith(t, "", []string{localBinary}, "--data", data).awaitReady(t)

	type settlement struct{ id, value string }
	var mu sync.Mutex
	var answered []settlement
	var unanswered atomic.Int32
	post := func(path, body string) (status int, fields map[string]any) {
		req, err := http.NewRequest("POST", r.promises(path), strings.NewReader(body))
		if err != nil {
			return 0, nil
		}
		req.Header.Set("Authorization", "Bearer "+r.ready.APIKey)
		req.Header.Set("Content-Type", "application/json")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return 0, nil
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil || json.NewDecoder(bytes.NewReader(b)).Decode(&fields) != nil {
			return 0, nil
		}
		return resp.StatusCode, fields
	}
	workflows := []string{uuid.NewString(), uuid.NewString()}
	stop := make(chan struct{})
	var callers sync.WaitGroup
	for caller := range 6 {
		callers.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				status, p := post("/promises", fmt.Sprintf(`{"workflowExecutionId":%q,"name":"%d-%d"}`, workflows[n%2], caller, n))
				id, _ := p["promiseId"].(string)
				if status/100 != 2 {
					unanswered.Add(1)
					continue
				}
				value := fmt.Sprintf(`{"caller": %d, "n": %d}`, caller, n)
				if status, _ := post("/promises/id:"+id+"/resolve", `{"value":`+value+`}`); status != 200 {
					unanswered.Add(1)
					continue
				}
				mu.Lock()
				answered = append(answered, settlement{id, value})
				mu.Unlock()
			}
		})
	}
	soFar := func() int {
		mu.Lock()
		defer mu.Unlock()
		return len(answered)
	}
	for range 40 {
		before := soFar()
		time.Sleep(20 * time.Millisecond)
		require.Eventually(t, func() bool { return soFar() > before }, time.Minute, time.Millisecond, "no settlement between two kills")
		if pids := r.functionPIDs(); len(pids) > 0 {
			syscall.Kill(pids[rand.IntN(len(pids))], syscall.SIGKILL) //nolint:errcheck // it may just have exited
		}
	}
	pid, err := postmaster(data)
	require.NoError(t, err)
	require.NoError(t, syscall.Kill(pid, syscall.SIGQUIT), "an immediate shutdown, as in a crash")
	require.Eventually(t, func() bool {
		status, _ := post("/promises", `{"workflowExecutionId":"`+workflows[0]+`","name":"away"}`)
		return status == 503
	}, time.Minute, 50*time.Millisecond, "without a database the answer is 503")
	require.Eventually(t, func() bool { return unanswered.Load() > 0 }, time.Minute, time.Millisecond)
	close(stop)
	callers.Wait()
	require.NoError(t, r.cmd.Process.Signal(os.Interrupt))
	<-r.exited

	r = startWith(t, "", []string{localBinary}, "--data", data).awaitReady(t)
	conn, err := pgx.Connect(t.Context(), r.ready.DatabaseURL)
	require.NoError(t, err)
	defer conn.Close(t.Context()) //nolint:errcheck // nothing is lost with it
	t.Run("every answered settlement is stored", func(t *testing.T) {
		for _, s := range answered {
			var stored string
			require.NoError(t, conn.QueryRow(t.Context(),
				"SELECT convert_from(value, 'UTF8') FROM promise WHERE id = $1 AND outcome = 'resolved'", s.id).Scan(&stored))
			require.Equal(t, s.value, stored)
		}
	})
	for what, sql := range map[string]string{
		"no sequence number lacks its event": `SELECT COUNT(*) FROM workflow_execution w WHERE last_sequence_number <> (
			SELECT COUNT(*) FROM workflow_event e WHERE e.workflow_execution_id = w.id
			AND e.sequence_number BETWEEN 1 AND w.last_sequence_number)`,
		"no settlement lacks its event": `SELECT COUNT(*) FROM promise p WHERE resolved AND NOT EXISTS (
			SELECT FROM workflow_event e WHERE e.workflow_execution_id = p.workflow_execution_id
			AND e.sequence_number = p.resolved_by_sequence AND e.promise_id = p.id AND event_type = 'PROMISE_RESOLVED')`,
		"no event lacks its change": `SELECT COUNT(*) FROM workflow_event e WHERE NOT EXISTS (
			SELECT FROM promise p WHERE p.id = e.promise_id AND e.sequence_number IN (p.created_by_sequence, p.resolved_by_sequence))`,
	} {
		t.Run(what, func(t *testing.T) {
			var n int
			require.NoError(t, conn.QueryRow(t.Context(), sql).Scan(&n))
			require.Zero(t, n)
		})
	}
	t.Logf("%d settlements answered, %d calls unanswered", len(answered), unanswered.Load())
	require.NotEmpty(t, answered)
	require.NotZero(t, unanswered.Load())
	r.stop(t, syscall.SIGINT)
}
