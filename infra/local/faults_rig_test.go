package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/Shopify/toxiproxy/v2"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/localpg"
)

// A faultRig is a running service whose database the test can make fail. The service reaches the test's own Postgres server through a
// proxy, as a role without special privileges, because Postgres exempts superusers from some limits.
type faultRig struct {
	*runner
	dir    string
	server *localpg.Server
	proxy  *toxiproxy.Proxy
	client http.Client
}

func newFaultRig(t *testing.T, dir string) *faultRig {
	t.Helper()
	rig := &faultRig{dir: dir, client: http.Client{Timeout: time.Minute, Transport: &http.Transport{MaxIdleConnsPerHost: 100}}}
	rig.proxy = toxiproxy.NewProxy(toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop()), "postgres", stableAddress(t), "")
	rig.startServer(t)
	t.Cleanup(func() { rig.server.Stop() }) //nolint:errcheck // it may have been crashed
	t.Cleanup(rig.client.CloseIdleConnections)
	rig.execAsAdmin(t, "CREATE ROLE service LOGIN PASSWORD 'of today'", "CREATE DATABASE service OWNER service")
	require.NoError(t, rig.proxy.Start())
	t.Cleanup(rig.proxy.Stop)
	rig.runner = startWith(t, "postgres://service:of%20today@"+rig.proxy.Listen+"/service?sslmode=disable", []string{localBinary}).awaitReady(t)

	rig.requireRecovery(t, rig.newWorkload(t), "") // this starts the functions' processes
	return rig
}

// startServer starts Postgres on the rig's folder. The port is new each time, and the proxy forwards to it.
func (rig *faultRig) startServer(t *testing.T) {
	t.Helper()
	server, err := localpg.Start(t.Context(), localpg.Options{Dir: rig.dir, Durable: true})
	require.NoError(t, err)
	u, err := url.Parse(server.URL())
	require.NoError(t, err)
	rig.server = server
	if !rig.proxy.Enabled {
		rig.proxy.Upstream = u.Host
		return
	}
	require.NoError(t, rig.proxy.Update(&toxiproxy.Proxy{Listen: rig.proxy.Listen, Upstream: u.Host, Enabled: true}))
}

// restart starts the server again after it has crashed or was stopped.
func (rig *faultRig) restart(t *testing.T) {
	t.Helper()
	rig.server.Stop() //nolint:errcheck // a crashed server has an error
	rig.startServer(t)
}

// admin connects as the server's superuser, without the proxy.
func (rig *faultRig) admin(t *testing.T, database string) *pgx.Conn {
	t.Helper()
	c, err := pgx.ParseConfig(rig.server.URL())
	require.NoError(t, err)
	c.Database = database
	c.RuntimeParams["default_transaction_read_only"] = "off"
	conn, err := pgx.ConnectConfig(t.Context(), c)
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close(context.Background()) }) //nolint:errcheck // the server may have stopped
	return conn
}

// execAsAdmin runs statements as the superuser.
func (rig *faultRig) execAsAdmin(t *testing.T, statements ...string) {
	t.Helper()
	conn := rig.admin(t, "postgres")
	for _, s := range statements {
		_, err := conn.Exec(t.Context(), s)
		require.NoError(t, err, s)
	}
	require.NoError(t, conn.Close(t.Context()))
}

// sessions returns the process ids of the service's database sessions.
func (rig *faultRig) sessions(t *testing.T) (pids []int) {
	t.Helper()
	conn := rig.admin(t, "postgres")
	rows, err := conn.Query(t.Context(), "SELECT pid FROM pg_stat_activity WHERE usename = 'service'")
	require.NoError(t, err)
	pids, err = pgx.CollectRows(rows, pgx.RowTo[int])
	require.NoError(t, err)
	require.NoError(t, conn.Close(t.Context()))
	return pids
}

// closeSessions ends the service's database sessions, so that it must connect again.
func (rig *faultRig) closeSessions(t *testing.T) {
	t.Helper()
	signalAll(rig.sessions(t), syscall.SIGTERM)
}

// signalAll sends a signal to processes. After SIGTERM it waits until they have exited.
func signalAll(pids []int, s syscall.Signal) {
	for _, pid := range pids {
		for syscall.Kill(pid, s) == nil && s == syscall.SIGTERM {
			time.Sleep(time.Millisecond)
		}
	}
}

// signalServer sends a signal to the Postgres server.
func (rig *faultRig) signalServer(t *testing.T, s syscall.Signal) {
	t.Helper()
	pid, err := postmaster(rig.dir)
	require.NoError(t, err)
	require.NoError(t, syscall.Kill(pid, s))
}

// addToxic adds a toxic to the proxy, for open connections too. The returned function removes it.
func (rig *faultRig) addToxic(t *testing.T, stream, kind, attributes string) (remove func()) {
	t.Helper()
	toxic, err := rig.proxy.Toxics.AddToxicJson(strings.NewReader(
		fmt.Sprintf(`{"name":%q,"type":%[2]q,"stream":%q,"attributes":%s}`, kind+stream, kind, stream, attributes)))
	require.NoError(t, err)
	return func() {
		t.Helper()
		require.NoError(t, rig.proxy.Toxics.RemoveToxic(context.Background(), toxic.Name))
	}
}

// An apiCall is a call of the service that can be repeated.
type apiCall struct {
	name, method, url, credential, body string
	direct, reads                       bool // reads: the call changes nothing
}

// A callResult is the outcome of an apiCall.
type callResult struct {
	apiCall
	err         error
	status      int
	header      http.Header
	body        string
	code        string // the problem's code, or empty
	begun, done time.Time
}

// do makes the call once.
func (rig *faultRig) do(ctx context.Context, c apiCall) (a callResult) {
	a = callResult{apiCall: c, begun: time.Now()}
	defer func() { a.done = time.Now() }()
	req, err := http.NewRequestWithContext(ctx, c.method, c.url, strings.NewReader(c.body))
	if err != nil {
		a.err = err
		return a
	}
	req.Header.Set("Content-Type", "application/json")
	if c.credential != "" {
		req.Header.Set("Authorization", "Bearer "+c.credential)
	}
	resp, err := rig.client.Do(req)
	if err != nil {
		a.err = err
		return a
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	a.status, a.header, a.body, a.err = resp.StatusCode, resp.Header, string(b), err
	var e struct{ ErrorType, Code string }
	if json.Unmarshal(b, &e) == nil {
		a.code = cmp.Or(e.ErrorType, e.Code)
	}
	return a
}

func (a callResult) String() string {
	return fmt.Sprintf("%s: %d %v %s %v after %v", a.name, a.status, a.header, a.body, a.err, a.done.Sub(a.begun))
}

// served reports whether the call has succeeded, or repeated an earlier success.
func (a callResult) served() bool {
	return a.err == nil && a.status/100 == 2 && a.code == "" && !strings.Contains(a.body, `"conflict"`) &&
		!strings.Contains(a.body, "not_found") && (!strings.HasPrefix(a.name, "authorize") || strings.Contains(a.body, `"kind":"key"`))
}

// unavailable reports whether the answer asks the caller to repeat the call. The authorizer allows such a call, and the operation
// answers it.
func (a callResult) unavailable() bool {
	switch {
	case a.err != nil:
		return false
	case strings.HasPrefix(a.name, "authorize"):
		return strings.Contains(a.body, `"kind":"unverified"`)
	case a.direct:
		return a.status == 200 && a.code == "unavailable" && a.header.Get("X-Amz-Function-Error") != ""
	}
	return a.status == 503 && a.code == "unavailable" && a.header.Get("Retry-After") != "" &&
		a.header.Get("Content-Type") == "application/problem+json"
}

// A workload is a set of calls of every operation on a new workflow. Each operation is called with an API key that the authorizer has cached,
// with a key that it has not, and directly; some are also called with a token. All calls of one operation ask for the same change.
type workload struct {
	workflow string
	calls    []apiCall
	events   map[string]string // by promise name: the final event besides PROMISE_CREATED
}

func (rig *faultRig) newWorkload(t *testing.T) *workload {
	t.Helper()
	w := &workload{workflow: uuid.NewString(), events: map[string]string{
		"resolved": "PROMISE_RESOLVED", "keyed": "PROMISE_RESOLVED", "rejected": "PROMISE_REJECTED", "cancelled": "PROMISE_CANCELLED",
		"extended": "PROMISE_EXTENDED", "batched": "PROMISE_RESOLVED", "called back": "PROMISE_RESOLVED", "called off": "PROMISE_REJECTED",
		"new": "",
	}}
	invoke := func(function, payload string) map[string]any {
		t.Helper()
		a := rig.untilServed(t, apiCall{name: function, method: "POST", url: rig.function(function), body: payload, direct: true})
		var fields map[string]any
		require.NoError(t, json.Unmarshal([]byte(a.body), &fields), a.body)
		return fields
	}
	key := invoke("manage-tenants", `{"action":"create-key","tenant":"demo","name":"n","scopes":["create","settle","read"]}`)
	id, token := map[string]string{}, map[string]string{}
	for name := range w.events {
		if name != "new" {
			p := invoke("create-promise", fmt.Sprintf(
				`{"tenant":"demo","workflowExecutionId":%q,"name":%q,"idempotencyKey":%q,"tokens":{"verbs":["resolve","reject"],"ttlSeconds":600}}`,
				w.workflow, name, w.workflow+name))
			id[name], token[name] = p["promiseId"].(string), p["token"].(string)
		}
	}
	post := func(function, name, path, body string) {
		w.add(rig, key["apiKey"].(string), "POST", "/promises"+path, body, body, function,
			fmt.Sprintf(`"promiseId":%q,`, id[name]))
	}
	post("resolve", "resolved", "/id:"+id["resolved"]+"/resolve", `{"value":1}`)
	post("reject", "rejected", "/id:"+id["rejected"]+"/reject", `{"error":"no"}`)
	post("cancel-promise", "cancelled", "/id:"+id["cancelled"]+"/cancel", `{"reason":"no"}`)
	post("extend-promise", "extended", "/id:"+id["extended"]+"/extend", `{"timeoutAt":"2030-01-01T00:00:00Z"}`)
	batch := fmt.Sprintf(`{"items":[{"identifier":"id:%s","value":1}]}`, id["batched"])
	w.add(rig, key["apiKey"].(string), "POST", "/promises/batch-resolve", batch, batch, "batch-resolve", "")
	created := fmt.Sprintf(`{"workflowExecutionId":%q,"name":"new","idempotencyKey":"%[1]snew"}`, w.workflow)
	w.add(rig, key["apiKey"].(string), "POST", "/promises", created, created, "create-promise", "")
	keyed := "key:" + w.workflow + "keyed"
	w.add(rig, key["apiKey"].(string), "POST", "/promises/"+keyed+"/resolve", `{"value":1}`, `{"value":1}`, "resolve-by-key",
		fmt.Sprintf(`"key":"%skeyed",`, w.workflow))
	w.calls = append(w.calls,
		apiCall{name: "resolve-by-id", direct: true, method: "POST", url: rig.function("resolve-by-id"),
			body: fmt.Sprintf(`{"tenant":"demo","promiseId":%q,"value":1}`, id["resolved"])},
		apiCall{name: "authorize", direct: true, reads: true, method: "POST", url: rig.function("authorize"),
			body: fmt.Sprintf(`{"version":"2.0","type":"REQUEST","identitySource":["Bearer %s"]}`, key["apiKey"])},
		apiCall{name: "manage-tenants", direct: true, reads: true, method: "POST", url: rig.function("manage-tenants"),
			body: `{"action":"list-keys","tenant":"demo"}`},
		apiCall{name: "callback, resolve", method: "POST", body: `{"value":1}`,
			url: rig.promises("/callbacks/id:" + id["called back"] + "/resolve?token=" + token["called back"])},
		apiCall{name: "callback, reject", method: "POST", body: `{"error":"no"}`,
			url: rig.promises("/callbacks/id:" + id["called off"] + "/reject?token=" + token["called off"])})
	// These calls do not wait, because their promise is settled or the event exists.
	w.add(rig, key["apiKey"].(string), "GET", "/promises/id:"+rig.settledPromise(t), "", "{}", "get-promise",
		fmt.Sprintf(`"promiseId":%q`, rig.settledPromise(t)))
	w.add(rig, key["apiKey"].(string), "GET", "/promises/id:"+rig.settledPromise(t)+"/wait?waitSeconds=20", "", `{"waitSeconds":20}`, "wait-promise",
		fmt.Sprintf(`"promiseId":%q,`, rig.settledPromise(t)))
	w.add(rig, key["apiKey"].(string), "GET", "/workflows/"+w.workflow+"/events", "", `{"limit":5}`, "list-events",
		fmt.Sprintf(`"workflowExecutionId":%q,`, w.workflow))
	w.add(rig, key["apiKey"].(string), "GET", "/workflows/"+w.workflow+"/events/wait?waitSeconds=20", "", `{"waitSeconds":20}`, "wait-events",
		fmt.Sprintf(`"workflowExecutionId":%q,`, w.workflow))
	w.add(rig, key["apiKey"].(string), "GET", "/promises?workflowExecutionId="+w.workflow, "", `{"limit":5}`, "list-promises", "")
	return w
}

// add adds the same call in three forms. The call with the cached key does not wait.
func (w *workload) add(rig *faultRig, fresh, method, path, body, direct, function, more string) {
	reads := method == http.MethodGet
	known, _, _ := strings.Cut(path, "?wait")
	w.calls = append(w.calls,
		apiCall{name: function + ", key cached", method: method, url: rig.promises(known), credential: rig.ready.APIKey, body: body, reads: reads},
		apiCall{name: function + ", key not cached", method: method, url: rig.promises(path), credential: fresh, body: body, reads: reads},
		apiCall{name: function + ", direct", method: "POST", url: rig.function(function), direct: true, reads: reads,
			body: `{"tenant":"demo",` + more + strings.TrimPrefix(direct, "{")})
}

func (rig *faultRig) function(name string) string {
	return rig.ready.LambdaURL + "/2015-03-31/functions/" + name + "/invocations"
}

// settledPromise returns the id of a settled promise, which the first call creates.
func (rig *faultRig) settledPromise(t *testing.T) string {
	t.Helper()
	body := `{"tenant":"demo","workflowExecutionId":"0b5c1f4e-6a0e-4f0a-9c58-2d1a3c7e9b10","name":"settled","timeoutMs":0}`
	a := rig.untilServed(t, apiCall{name: "settled", method: "POST", url: rig.function("create-promise"), body: body, direct: true})
	var p struct{ PromiseID string }
	require.NoError(t, json.Unmarshal([]byte(a.body), &p), a.body)
	return p.PromiseID
}

// logTail returns the end of the runner's error output.
func (rig *faultRig) logTail() string {
	log := rig.stderr.String()
	return log[max(0, len(log)-4000):]
}

// untilServed repeats a call until it is served. It fails if an answer is neither served nor unavailable.
func (rig *faultRig) untilServed(t *testing.T, c apiCall) callResult {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; {
		a := rig.do(t.Context(), c)
		if a.served() {
			return a
		}
		require.True(t, a.unavailable() && time.Now().Before(deadline), "%v\n%s", a, rig.logTail())
	}
}

// doAll makes the calls concurrently, and repeats each while again is true for its last result. It returns all results.
func (rig *faultRig) doAll(t *testing.T, calls []apiCall, again func(callResult) bool) []callResult {
	t.Helper()
	answers := make([][]callResult, len(calls))
	var wg sync.WaitGroup
	for i, c := range calls {
		wg.Go(func() {
			for {
				a := rig.do(t.Context(), c)
				answers[i] = append(answers[i], a)
				if !again(a) {
					return
				}
				time.Sleep(20 * time.Millisecond)
			}
		})
	}
	wg.Wait()
	var all []callResult
	for _, a := range answers {
		all = append(all, a...)
	}
	return all
}

func noRetry(callResult) bool { return false }

// requireRecovery repeats the calls until they are served. Then it checks that each change was applied exactly once. It returns the time at
// which the last call was served.
func (rig *faultRig) requireRecovery(t *testing.T, w *workload, after string) (served time.Time) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for _, a := range rig.doAll(t, w.calls, func(a callResult) bool { return a.unavailable() && time.Now().Before(deadline) }) {
		require.True(t, a.served() || a.unavailable(), "%s: %v\n%s", after, a, rig.logTail())
		require.True(t, time.Now().Before(deadline), "%s: %v\n%s", after, a, rig.logTail())
		if a.served() && a.done.After(served) {
			served = a.done
		}
	}
	got := map[string]int{}
	for _, e := range rig.eventLog(t, w.workflow) {
		got[e.PromiseName+" "+e.EventType]++
	}
	want := map[string]int{}
	for name, event := range w.events {
		want[name+" PROMISE_CREATED"] = 1
		if event != "" {
			want[name+" "+event] = 1
		}
	}
	require.Equal(t, want, got, after)
	return served
}

// An event is an entry of a workflow's log.
type event struct {
	SequenceNumber         int
	EventType, PromiseName string
}

// eventLog reads a workflow's log and checks that its sequence numbers have no gap.
func (rig *faultRig) eventLog(t *testing.T, workflow string) []event {
	t.Helper()
	var all []event
	for {
		a := rig.untilServed(t, apiCall{name: "the log", method: "GET", credential: rig.ready.APIKey,
			url: rig.promises(fmt.Sprintf("/workflows/%s/events?after=%d", workflow, len(all)))})
		var page struct{ Events []event }
		require.NoError(t, json.Unmarshal([]byte(a.body), &page), a.body)
		if len(page.Events) == 0 {
			return all
		}
		for _, e := range page.Events {
			all = append(all, e)
			require.Equal(t, len(all), e.SequenceNumber, "a gap: %s", a.body)
		}
	}
}

// A databaseFault is a fault of the database.
type databaseFault struct {
	name       string
	begin, end func(t *testing.T)
	logs       string // a regular expression that the service's log matches during the fault
	reads      bool   // calls that change nothing are served
	writes     bool   // all calls may be served
	rounds     int    // the number of rounds of calls during the fault
}

// testFault makes all calls during a fault and after it, in a subtest. The operation itself must answer each call; Lambda's timeout would give
// another answer. The time until the answer depends on the machine. Tests in shared/gateway check with a fixed clock that a call's
// deadline reaches the database.
func (rig *faultRig) testFault(t *testing.T, f databaseFault) {
	t.Helper()
	t.Run(f.name, func(t *testing.T) { rig.runFault(t, f) })
}

func (rig *faultRig) runFault(t *testing.T, f databaseFault) {
	t.Helper()
	w := rig.newWorkload(t)
	logged := len(rig.stderr.String())
	f.begin(t)
	var worst time.Duration
	refused := 0
	for range f.rounds {
		for _, a := range rig.doAll(t, w.calls, noRetry) {
			may := f.writes || f.reads && a.reads
			require.True(t, a.unavailable() || may && a.served(), "%s: %v\n%s", f.name, a, rig.logTail())
			worst = max(worst, a.done.Sub(a.begun))
			if a.unavailable() {
				refused++
			}
		}
	}
	require.Regexp(t, f.logs, rig.stderr.String()[logged:], f.name)
	f.end(t)
	ended := time.Now()
	recovered := rig.requireRecovery(t, w, f.name).Sub(ended)
	t.Logf("%-50s %2d of %2d calls were unavailable, the slowest after %5.2f s; all served %5.2f s after the fault", f.name,
		refused, f.rounds*len(w.calls), worst.Seconds(), recovered.Seconds())
}

// memoryFolder returns a folder in memory if the machine has /dev/shm, because these servers wait for their disk at each commit.
func memoryFolder(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "promises-local-test-")
	if err != nil {
		return filepath.Join(tempFolder(t), "data")
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	require.NoError(t, os.Chmod(dir, 0o711)) //nolint:gosec // see tempFolder
	return filepath.Join(dir, "data")
}
