package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/infra/local/invokeapi"
	"github.com/flovyn/promises/infra/local/lambda"
	"github.com/flovyn/promises/shared/delivery"
	"github.com/flovyn/promises/shared/migrate"
	"github.com/flovyn/promises/shared/seal"
	"github.com/flovyn/promises/shared/skip"
)

var deliveredPromises = flag.Int("deliveries.promises", 1000, "number of promises in TestDeliveriesArriveDespiteFaults")

// A notification is one target's view of a promise.
type notification struct {
	promiseID, state string
	value            string // the JSON of its value, or its error
}

// A receiver is an HTTPS receiver and a Step Functions service in one. It checks each request and records it.
type receiver struct {
	url      string
	verify   map[string]*standardwebhooks.Webhook // by path
	mu       sync.Mutex
	messages map[string]string       // the body of each message, by id
	tasks    map[string]notification // the completion of each task, by token
	repeated int
	faults   []string
}

func startReceiver(t *testing.T) *receiver {
	t.Helper()
	r := &receiver{verify: map[string]*standardwebhooks.Webhook{}, messages: map[string]string{}, tasks: map[string]notification{}}
	server := httptest.NewServer(r)
	t.Cleanup(server.Close)
	r.url = server.URL
	return r
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return // the sender was killed
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if webhook := r.verify[req.URL.Path]; webhook != nil {
		if err := webhook.Verify(body, req.Header); err != nil {
			r.faults = append(r.faults, err.Error())
		}
		id := req.Header.Get("webhook-id")
		if before, again := r.messages[id]; again {
			r.repeated++
			if before != string(body) {
				r.faults = append(r.faults, fmt.Sprintf("message %s has changed: %s, before: %s", id, body, before))
			}
		}
		r.messages[id] = string(body)
		return
	}
	var task struct{ TaskToken, Output, Error, Cause string }
	if err := json.Unmarshal(body, &task); err != nil {
		r.faults = append(r.faults, err.Error())
	}
	n := notification{state: strings.TrimPrefix(task.Error, "promise_"), value: task.Cause}
	if strings.HasSuffix(req.Header.Get("X-Amz-Target"), ".SendTaskSuccess") {
		var output struct {
			PromiseID, State string
			Value            json.RawMessage
		}
		if err := json.Unmarshal([]byte(task.Output), &output); err != nil {
			r.faults = append(r.faults, err.Error())
		}
		n = notification{output.PromiseID, output.State, string(output.Value)}
	}
	if before, again := r.tasks[task.TaskToken]; again {
		r.repeated++
		if before != n {
			r.faults = append(r.faults, fmt.Sprintf("task %s has changed: %v, before: %v", task.TaskToken, n, before))
		}
	}
	r.tasks[task.TaskToken] = n
	io.WriteString(w, "{}") //nolint:errcheck // the sender may have been killed
}

// A deliveryRig runs the relay and the sender on a database, with a tenant, three signed destinations and the tenant's Step Functions.
type deliveryRig struct {
	*receiver
	database *database
	service  *lambda.Service
	binaries string
	output   buffer
	pool     *pgxpool.Pool
}

func newDeliveryRig(t *testing.T) *deliveryRig {
	t.Helper()
	rig := &deliveryRig{receiver: startReceiver(t), database: startDatabase(t), binaries: tempFolder(t)}
	for _, name := range []string{"relay-deliveries", "send-deliveries"} {
		build := exec.Command("go", "build", "-tags", "lambda.norpc", "-o", filepath.Join(rig.binaries, name), "../../functions/"+name)
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		out, err := build.CombinedOutput()
		require.NoError(t, err, "%s", out)
	}
	conf, err := pgxpool.ParseConfig(rig.database.url)
	require.NoError(t, err)
	_, err = migrate.Run(t.Context(), conf.ConnConfig, migrate.Options{})
	require.NoError(t, err)
	rig.pool, err = pgxpool.NewWithConfig(t.Context(), conf)
	require.NoError(t, err)
	t.Cleanup(rig.pool.Close)
	keys := seal.Generate()
	rig.addDestinations(t, keys)

	api := httptest.NewUnstartedServer(nil)
	env := func(more ...string) []string { return append([]string{"AWS_ENDPOINT_URL_SFN=" + rig.url}, more...) }
	rig.service = lambda.New([]lambda.Function{
		{Name: "relay-deliveries", Path: filepath.Join(rig.binaries, "relay-deliveries"), Timeout: 180 * time.Second, MemoryMB: 512, Concurrency: 2,
			Env: env("DATABASE_URL="+rig.database.url, "SEND_FUNCTION=send-deliveries", "SEALING_KEYS="+keys.Text(), "AWS_ENDPOINT_URL_LAMBDA=http://"+api.Listener.Addr().String())},
		{Name: "send-deliveries", Path: filepath.Join(rig.binaries, "send-deliveries"), Timeout: 30 * time.Second, MemoryMB: 1024, Concurrency: 8,
			Env: env("DELIVER_TO_LOOPBACK=true")},
	}, lambda.Options{Output: &rig.output})
	api.Config.Handler = invokeapi.Handler{Service: rig.service}
	api.Start()
	t.Cleanup(api.Close)
	t.Cleanup(rig.service.Close)
	return rig
}

func (rig *deliveryRig) addDestinations(t *testing.T, keys *seal.Keys) {
	t.Helper()
	_, err := rig.pool.Exec(t.Context(), "INSERT INTO tenant (slug) VALUES ('acme')")
	require.NoError(t, err)
	for _, name := range []string{"a", "b", "c"} {
		id, secret := uuid.New(), delivery.NewSecret()
		rig.verify["/"+name], err = standardwebhooks.NewWebhook(secret)
		require.NoError(t, err)
		sealed, err := keys.Seal("destination_secret.sealed", id.String(), 1, []byte(secret))
		require.NoError(t, err)
		_, err = rig.pool.Exec(t.Context(), "INSERT INTO destination (id, tenant_id, name, kind, address) SELECT $1, id, $2, 'https', $3 FROM tenant",
			id, name, rig.url+"/"+name)
		require.NoError(t, err)
		_, err = rig.pool.Exec(t.Context(), "INSERT INTO destination_secret (destination_id, version, sealed) VALUES ($1, 1, $2)", id, sealed)
		require.NoError(t, err)
	}
}

// keepRelaying invokes the relay again and again, until ctx ends.
func (rig *deliveryRig) keepRelaying(ctx context.Context) {
	for ctx.Err() == nil {
		if _, err := rig.service.Invoke(ctx, "relay-deliveries", lambda.Request{}); err != nil {
			pause(ctx, 10*time.Millisecond, 50*time.Millisecond)
		}
	}
}

// settleChunk creates promises first to first+n-1 and settles nine of ten. Promise n has 1 to 4 targets, and the outcome follows from n.
const settleChunk = `
WITH created AS MATERIALIZED (
	SELECT n, promise_create('acme', ('00000000-0000-4000-8000-' || LPAD(n::TEXT, 12, '0'))::UUID, NULL, 'n', NULL, NULL, INTERVAL '1 day', NULL, NULL,
		NULL, NULL, NULL, 1000, FALSE,
		(ARRAY['stepFunctions', NULL, 'token-' || n, NULL, 'a', NULL, NULL, 'b', NULL, NULL, 'c', NULL]::VARCHAR[])[1:3 + 3 * (n % 4)]) AS it
	FROM generate_series($1::INT, $2::INT) n
)
SELECT COUNT(*) FROM created`

const settleCreated = `
UPDATE promise p SET resolved = TRUE, resolved_at = NOW(), resolved_by_sequence = 2,
	outcome = (ARRAY['resolved', 'rejected', 'cancelled', 'timed_out'])[1 + n / 4 % 4],
	value = CASE WHEN n / 4 % 4 = 0 THEN n::TEXT::BYTEA END,
	error = CASE WHEN n / 4 % 4 = 1 THEN 'no ' || n END,
	settled_by_kind = CASE WHEN n / 4 % 4 = 3 THEN 'deadline' ELSE 'key' END
FROM (SELECT id, RIGHT(workflow_execution_id::TEXT, 12)::INT AS n FROM promise) AS numbered
WHERE p.id = numbered.id AND n BETWEEN $1::INT AND $2::INT AND n % 10 > 0 AND NOT resolved`

// settleAll creates and settles promises in chunks. It repeats a chunk that failed or whose answer was lost.
func (rig *deliveryRig) settleAll(t *testing.T, n int) {
	t.Helper()
	const chunk = 100
	for first := 0; first < n; first += chunk {
		require.Eventually(t, func() bool {
			for _, statement := range []string{settleChunk, settleCreated} {
				if _, err := rig.pool.Exec(t.Context(), statement, first, min(first+chunk, n)-1); err != nil {
					return false
				}
			}
			return true
		}, time.Minute, 20*time.Millisecond)
	}
}

// processes lists the processes of the relay and the sender.
func (rig *deliveryRig) processes() (pids []int) {
	exes, _ := filepath.Glob("/proc/[0-9]*/exe")
	for _, exe := range exes {
		if target, err := os.Readlink(exe); err == nil && strings.HasPrefix(target, rig.binaries) {
			if pid, err := strconv.Atoi(strings.Split(exe, "/")[2]); err == nil {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

// disturb kills processes of the relay and the sender, and the database, until ctx ends.
func (rig *deliveryRig) disturb(ctx context.Context, t *testing.T, killed, stopped *atomic.Int64) {
	t.Helper()
	var both sync.WaitGroup
	both.Go(func() { stopDatabase(ctx, t, nil, rig.database, stopped) })
	for pause(ctx, 50*time.Millisecond, 300*time.Millisecond) {
		if pids := rig.processes(); len(pids) > 0 && syscall.Kill(pids[rand.IntN(len(pids))], syscall.SIGKILL) == nil {
			killed.Add(1)
		}
	}
	both.Wait()
}

// Relays, senders and the database are killed while promises with up to four targets settle. Every target is reached, and every repetition
// of a message is the same. No other promise is announced, and each one with its outcome.
func TestDeliveriesArriveDespiteFaults(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		skip.Now(t, "the functions' processes are found in /proc")
	}
	rig := newDeliveryRig(t)
	working, stop := context.WithCancel(t.Context())
	var relays sync.WaitGroup
	defer relays.Wait()
	defer rig.service.Close()
	defer stop()
	for range 2 {
		relays.Go(func() { rig.keepRelaying(working) })
	}
	faulty, calm := context.WithCancel(t.Context())
	var killed, stopped atomic.Int64
	var faults sync.WaitGroup
	defer faults.Wait()
	defer calm()
	faults.Go(func() { rig.disturb(faulty, t, &killed, &stopped) })
	begun := time.Now()
	rig.settleAll(t, *deliveredPromises)
	settled := time.Since(begun)
	require.Eventually(t, func() bool { return killed.Load() >= 20 && stopped.Load() >= 3 }, time.Minute, 10*time.Millisecond)
	calm()
	faults.Wait()
	rig.untilDelivered(t)
	stop()
	rig.requireArrived(t)
	t.Logf("%d promises settled in %.1f s, %d messages and %d tasks in %.1f s, %d of them repeated; %d processes killed, the database stopped %d times",
		*deliveredPromises, settled.Seconds(), len(rig.messages), len(rig.tasks), time.Since(begun).Seconds(), rig.repeated, killed.Load(), stopped.Load())
}

// untilDelivered waits until no delivery is due. It ends the leases of relays that were killed, which would last for 45 s.
func (rig *deliveryRig) untilDelivered(t *testing.T) {
	t.Helper()
	deadline := time.Now().Add(2*time.Minute + time.Duration(*deliveredPromises)*20*time.Millisecond)
	for n := 0; ; n++ {
		due := -1
		if err := rig.pool.QueryRow(t.Context(), "SELECT COUNT(*) FROM delivery WHERE state = 'due'").Scan(&due); err == nil && due == 0 {
			return
		}
		if time.Now().After(deadline) {
			output := rig.output.String()
			require.FailNow(t, "deliveries are due still", "%d\n%s", due, output[max(0, len(output)-4000):])
		}
		if n%20 == 19 {
			rig.pool.Exec(t.Context(), "UPDATE delivery SET due_at = NOW() WHERE state = 'due' AND due_at > NOW()") //nolint:errcheck // the database may be down
			rig.pool.Exec(t.Context(), "UPDATE delivery_lease SET expires_at = NOW()")                              //nolint:errcheck // as above
		}
		time.Sleep(200 * time.Millisecond)
	}
}

// requireArrived compares what the receiver got with the promises.
func (rig *deliveryRig) requireArrived(t *testing.T) {
	t.Helper()
	rig.mu.Lock()
	defer rig.mu.Unlock()
	require.Empty(t, rig.faults)
	rows, err := rig.pool.Query(t.Context(), `SELECT v.id::TEXT, COALESCE(v.token, ''), v.state, p.id::TEXT, p.resolved, COALESCE(p.outcome, ''),
		COALESCE(CONVERT_FROM(p.value, 'UTF8'), p.error, '') FROM delivery v JOIN promise p ON p.id = v.promise_id`)
	require.NoError(t, err)
	messages, tasks := maps.Clone(rig.messages), maps.Clone(rig.tasks)
	var id, token, state, promiseID, outcome, value string
	var resolved bool
	targets := 0
	_, err = pgx.ForEachRow(rows, []any{&id, &token, &state, &promiseID, &resolved, &outcome, &value}, func() error {
		body, message := messages[id]
		task, completed := tasks[token]
		if !resolved {
			require.False(t, message || completed, "promise %s is pending", promiseID)
			require.Equal(t, "waiting", state)
			return nil
		}
		targets++
		require.Equal(t, "delivered", state)
		want := notification{promiseID, outcome, value}
		got := task
		if token == "" {
			require.True(t, message, "delivery %s did not arrive", id)
			got = readMessage(t, id, body)
		} else {
			require.True(t, completed, "%s was not completed", token)
			if outcome != "resolved" { // a failure names no promise
				want.promiseID = ""
			}
		}
		require.Equal(t, want, got)
		delete(messages, id)
		delete(tasks, token)
		return nil
	})
	require.NoError(t, err)
	require.Positive(t, targets)
	require.Empty(t, messages, "messages without a delivery")
	require.Empty(t, tasks, "tasks without a delivery")
}

// readMessage reads the body of a message with that id.
func readMessage(t *testing.T, id, body string) notification {
	t.Helper()
	var m struct {
		ID, Type, Tenant string
		Timestamp        time.Time
		Data             struct {
			PromiseID, State, Error string
			Value                   json.RawMessage
		}
	}
	require.NoError(t, json.Unmarshal([]byte(body), &m), body)
	require.Equal(t, []string{id, "promise." + m.Data.State, "acme"}, []string{m.ID, m.Type, m.Tenant})
	require.False(t, m.Timestamp.IsZero())
	return notification{m.Data.PromiseID, m.Data.State, string(m.Data.Value) + m.Data.Error}
}
