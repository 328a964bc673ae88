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

// outage is a service with a database that can be made to fail: a server of the test's own behind a proxy, used as a role
// that has no privileges, from which Postgres would keep nothing back.
type outage struct {
	*runner
	dir    string
	server *localpg.Server
	proxy  *toxiproxy.Proxy
	client http.Client
}

func newOutage(t *testing.T, dir string) *outage {
	t.Helper()
	o := &outage{dir: dir, client: http.Client{Timeout: time.Minute, Transport: &http.Transport{MaxIdleConnsPerHost: 100}}}
	o.proxy = toxiproxy.NewProxy(toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop()), "postgres", stableAddress(t), "")
	o.startServer(t)
	t.Cleanup(func() { o.server.Stop() }) //nolint:errcheck // it may have been crashed
	t.Cleanup(o.client.CloseIdleConnections)
	o.sql(t, "CREATE ROLE service LOGIN PASSWORD 'of today'", "CREATE DATABASE service OWNER service")
	require.NoError(t, o.proxy.Start())
	t.Cleanup(o.proxy.Stop)
	o.runner = startWith(t, "postgres://service:of%20today@"+o.proxy.Listen+"/service?sslmode=disable", []string{localBinary}).awaitReady(t)

	o.healthy(t, o.work(t), "") // which starts processes
	return o
}

// startServer starts the server of the folder, which has a new port each time.
func (o *outage) startServer(t *testing.T) {
	t.Helper()
	server, err := localpg.Start(t.Context(), localpg.Options{Dir: o.dir, Durable: true})
	require.NoError(t, err)
	u, err := url.Parse(server.URL())
	require.NoError(t, err)
	o.server = server
	if !o.proxy.Enabled {
		o.proxy.Upstream = u.Host
		return
	}
	require.NoError(t, o.proxy.Update(&toxiproxy.Proxy{Listen: o.proxy.Listen, Upstream: u.Host, Enabled: true}))
}

// restart is for a server that has ended by itself, or was made to.
func (o *outage) restart(t *testing.T) {
	t.Helper()
	o.server.Stop() //nolint:errcheck // how it ended is the test's matter
	o.startServer(t)
}

// admin connects as the server's superuser, past the proxy.
func (o *outage) admin(t *testing.T, database string) *pgx.Conn {
	t.Helper()
	c, err := pgx.ParseConfig(o.server.URL())
	require.NoError(t, err)
	c.Database = database
	c.RuntimeParams["default_transaction_read_only"] = "off"
	conn, err := pgx.ConnectConfig(t.Context(), c)
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close(context.Background()) }) //nolint:errcheck // the server may be gone
	return conn
}

func (o *outage) sql(t *testing.T, statements ...string) {
	t.Helper()
	conn := o.admin(t, "postgres")
	for _, s := range statements {
		_, err := conn.Exec(t.Context(), s)
		require.NoError(t, err, s)
	}
	require.NoError(t, conn.Close(t.Context()))
}

// sessions are the processes that serve the service.
func (o *outage) sessions(t *testing.T) (pids []int) {
	t.Helper()
	conn := o.admin(t, "postgres")
	rows, err := conn.Query(t.Context(), "SELECT pid FROM pg_stat_activity WHERE usename = 'service'")
	require.NoError(t, err)
	pids, err = pgx.CollectRows(rows, pgx.RowTo[int])
	require.NoError(t, err)
	require.NoError(t, conn.Close(t.Context()))
	return pids
}

// hangUp ends the service's sessions, so that it must connect anew.
func (o *outage) hangUp(t *testing.T) {
	t.Helper()
	signalAll(o.sessions(t), syscall.SIGTERM)
}

// signalAll sends a signal to processes; where that ends them, it returns when they have ended.
func signalAll(pids []int, s syscall.Signal) {
	for _, pid := range pids {
		for syscall.Kill(pid, s) == nil && s == syscall.SIGTERM {
			time.Sleep(time.Millisecond)
		}
	}
}

// signal sends a signal to the server.
func (o *outage) signal(t *testing.T, s syscall.Signal) {
	t.Helper()
	pid, err := postmaster(o.dir)
	require.NoError(t, err)
	require.NoError(t, syscall.Kill(pid, s))
}

// toxic adds a toxic to the proxy, on open connections too, until the function that it returns.
func (o *outage) toxic(t *testing.T, stream, kind, attributes string) (remove func()) {
	t.Helper()
	toxic, err := o.proxy.Toxics.AddToxicJson(strings.NewReader(
		fmt.Sprintf(`{"name":%q,"type":%[2]q,"stream":%q,"attributes":%s}`, kind+stream, kind, stream, attributes)))
	require.NoError(t, err)
	return func() {
		t.Helper()
		require.NoError(t, o.proxy.Toxics.RemoveToxic(context.Background(), toxic.Name))
	}
}

// apiCall is one call, which can be made again and again.
type apiCall struct {
	name, method, url, credential, body string
	direct, reads                       bool
}

// received is what came of it.
type received struct {
	apiCall
	err         error
	status      int
	header      http.Header
	body        string
	code        string // of a problem
	begun, done time.Time
}

func (o *outage) make(ctx context.Context, c apiCall) (a received) {
	a = received{apiCall: c, begun: time.Now()}
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
	resp, err := o.client.Do(req)
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

func (a received) String() string {
	return fmt.Sprintf("%s: %d %v %s %v after %v", a.name, a.status, a.header, a.body, a.err, a.done.Sub(a.begun))
}

// served says whether the call has done what it is for: now, or earlier.
func (a received) served() bool {
	return a.err == nil && a.status/100 == 2 && a.code == "" && !strings.Contains(a.body, `"conflict"`) &&
		!strings.Contains(a.body, "not_found") && (!strings.HasPrefix(a.name, "authorize") || strings.Contains(a.body, `"kind":"key"`))
}

// unavailable says whether the caller was told to come again. The authorizer leaves that to the operation.
func (a received) unavailable() bool {
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

// work is calls of everything that there is, on a workflow of their own: with a key that has been looked up, with one that
// has not, with tokens, and directly. All those of one operation say the same.
type work struct {
	workflow string
	calls    []apiCall
	events   map[string]string // what the log holds in the end, besides the creations, by the promises' names
}

func (o *outage) work(t *testing.T) *work {
	t.Helper()
	w := &work{workflow: uuid.NewString(), events: map[string]string{
		"resolved": "PROMISE_RESOLVED", "keyed": "PROMISE_RESOLVED", "rejected": "PROMISE_REJECTED", "cancelled": "PROMISE_CANCELLED",
		"extended": "PROMISE_EXTENDED", "batched": "PROMISE_RESOLVED", "called back": "PROMISE_RESOLVED", "called off": "PROMISE_REJECTED",
		"new": "",
	}}
	invoke := func(function, payload string) map[string]any {
		t.Helper()
		a := o.until(t, apiCall{name: function, method: "POST", url: o.function(function), body: payload, direct: true})
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
		w.add(o, key["apiKey"].(string), "POST", "/promises"+path, body, body, function,
			fmt.Sprintf(`"promiseId":%q,`, id[name]))
	}
	post("resolve", "resolved", "/id:"+id["resolved"]+"/resolve", `{"value":1}`)
	post("reject", "rejected", "/id:"+id["rejected"]+"/reject", `{"error":"no"}`)
	post("cancel-promise", "cancelled", "/id:"+id["cancelled"]+"/cancel", `{"reason":"no"}`)
	post("extend-promise", "extended", "/id:"+id["extended"]+"/extend", `{"timeoutAt":"2030-01-01T00:00:00Z"}`)
	batch := fmt.Sprintf(`{"items":[{"identifier":"id:%s","value":1}]}`, id["batched"])
	w.add(o, key["apiKey"].(string), "POST", "/promises/batch-resolve", batch, batch, "batch-resolve", "")
	created := fmt.Sprintf(`{"workflowExecutionId":%q,"name":"new","idempotencyKey":"%[1]snew"}`, w.workflow)
	w.add(o, key["apiKey"].(string), "POST", "/promises", created, created, "create-promise", "")
	keyed := "key:" + w.workflow + "keyed"
	w.add(o, key["apiKey"].(string), "POST", "/promises/"+keyed+"/resolve", `{"value":1}`, `{"value":1}`, "resolve-by-key",
		fmt.Sprintf(`"key":"%skeyed",`, w.workflow))
	w.calls = append(w.calls,
		apiCall{name: "resolve-by-id", direct: true, method: "POST", url: o.function("resolve-by-id"),
			body: fmt.Sprintf(`{"tenant":"demo","promiseId":%q,"value":1}`, id["resolved"])},
		apiCall{name: "authorize", direct: true, reads: true, method: "POST", url: o.function("authorize"),
			body: fmt.Sprintf(`{"version":"2.0","type":"REQUEST","identitySource":["Bearer %s"]}`, key["apiKey"])},
		apiCall{name: "manage-tenants", direct: true, reads: true, method: "POST", url: o.function("manage-tenants"),
			body: `{"action":"list-keys","tenant":"demo"}`},
		apiCall{name: "callback, resolve", method: "POST", body: `{"value":1}`,
			url: o.promises("/callbacks/id:" + id["called back"] + "/resolve?token=" + token["called back"])},
		apiCall{name: "callback, reject", method: "POST", body: `{"error":"no"}`,
			url: o.promises("/callbacks/id:" + id["called off"] + "/reject?token=" + token["called off"])})
	// These wait for nothing when the database is there.
	w.add(o, key["apiKey"].(string), "GET", "/promises/id:"+o.settled(t), "", "{}", "get-promise",
		fmt.Sprintf(`"promiseId":%q`, o.settled(t)))
	w.add(o, key["apiKey"].(string), "GET", "/promises/id:"+o.settled(t)+"/wait?waitSeconds=20", "", `{"waitSeconds":20}`, "wait-promise",
		fmt.Sprintf(`"promiseId":%q,`, o.settled(t)))
	w.add(o, key["apiKey"].(string), "GET", "/workflows/"+w.workflow+"/events", "", `{"limit":5}`, "list-events",
		fmt.Sprintf(`"workflowExecutionId":%q,`, w.workflow))
	w.add(o, key["apiKey"].(string), "GET", "/workflows/"+w.workflow+"/events/wait?waitSeconds=20", "", `{"waitSeconds":20}`, "wait-events",
		fmt.Sprintf(`"workflowExecutionId":%q,`, w.workflow))
	w.add(o, key["apiKey"].(string), "GET", "/promises?workflowExecutionId="+w.workflow, "", `{"limit":5}`, "list-promises", "")
	return w
}

// add adds the same call in three forms. The one with the key that is known does not wait.
func (w *work) add(o *outage, fresh, method, path, body, direct, function, more string) {
	reads := method == http.MethodGet
	known, _, _ := strings.Cut(path, "?wait")
	w.calls = append(w.calls,
		apiCall{name: function + ", key known", method: method, url: o.promises(known), credential: o.ready.APIKey, body: body, reads: reads},
		apiCall{name: function + ", key unknown", method: method, url: o.promises(path), credential: fresh, body: body, reads: reads},
		apiCall{name: function + ", direct", method: "POST", url: o.function(function), direct: true, reads: reads,
			body: `{"tenant":"demo",` + more + strings.TrimPrefix(direct, "{")})
}

func (o *outage) function(name string) string {
	return o.ready.LambdaURL + "/2015-03-31/functions/" + name + "/invocations"
}

// settled is a promise that was settled long ago.
func (o *outage) settled(t *testing.T) string {
	t.Helper()
	body := `{"tenant":"demo","workflowExecutionId":"0b5c1f4e-6a0e-4f0a-9c58-2d1a3c7e9b10","name":"settled","timeoutMs":0}`
	a := o.until(t, apiCall{name: "settled", method: "POST", url: o.function("create-promise"), body: body, direct: true})
	var p struct{ PromiseID string }
	require.NoError(t, json.Unmarshal([]byte(a.body), &p), a.body)
	return p.PromiseID
}

// lastWords is the end of what the functions have printed.
func (o *outage) lastWords() string {
	log := o.stderr.String()
	return log[max(0, len(log)-4000):]
}

// until repeats a call until it is served.
func (o *outage) until(t *testing.T, c apiCall) received {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; {
		a := o.make(t.Context(), c)
		if a.served() {
			return a
		}
		require.True(t, a.unavailable() && time.Now().Before(deadline), "%v\n%s", a, o.lastWords())
	}
}

// all makes the calls at once, each again for as long as the last answer asks for it.
func (o *outage) all(t *testing.T, calls []apiCall, again func(received) bool) []received {
	t.Helper()
	answers := make([][]received, len(calls))
	var wg sync.WaitGroup
	for i, c := range calls {
		wg.Go(func() {
			for {
				a := o.make(t.Context(), c)
				answers[i] = append(answers[i], a)
				if !again(a) {
					return
				}
				time.Sleep(20 * time.Millisecond)
			}
		})
	}
	wg.Wait()
	var all []received
	for _, a := range answers {
		all = append(all, a...)
	}
	return all
}

func once(received) bool { return false }

// healthy repeats the calls until they are served, and checks what has come of them: each was applied, and none twice. It
// returns when the last of them was served for the first time.
func (o *outage) healthy(t *testing.T, w *work, after string) (served time.Time) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for _, a := range o.all(t, w.calls, func(a received) bool { return a.unavailable() && time.Now().Before(deadline) }) {
		require.True(t, a.served() || a.unavailable(), "%s: %v\n%s", after, a, o.lastWords())
		require.True(t, time.Now().Before(deadline), "%s: %v\n%s", after, a, o.lastWords())
		if a.served() && a.done.After(served) {
			served = a.done
		}
	}
	got := map[string]int{}
	for _, e := range o.log(t, w.workflow) {
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

type event struct {
	SequenceNumber         int
	EventType, PromiseName string
}

// log reads a workflow's log, and checks its numbers.
func (o *outage) log(t *testing.T, workflow string) []event {
	t.Helper()
	var all []event
	for {
		a := o.until(t, apiCall{name: "the log", method: "GET", credential: o.ready.APIKey,
			url: o.promises(fmt.Sprintf("/workflows/%s/events?after=%d", workflow, len(all)))})
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

// trouble is something that happens to a database.
type trouble struct {
	name       string
	begin, end func()
	says       string // what the log of the service holds then, a regular expression
	reads      bool   // what only reads is served
	writes     bool   // what writes may be served, too
	waves      int    // how often the calls are made meanwhile
}

// suffer makes all calls during a fault, and after it. The service itself must answer each: one that its function's time limit
// ends has another answer. How soon that is depends on the machine; that a call's deadline reaches the database is tested in
// shared/gateway, by a clock that stands still.
func (o *outage) suffer(t *testing.T, f trouble) {
	t.Helper()
	w := o.work(t)
	logged := len(o.stderr.String())
	f.begin()
	var worst time.Duration
	refused := 0
	for range f.waves {
		for _, a := range o.all(t, w.calls, once) {
			may := f.writes || f.reads && a.reads
			require.True(t, a.unavailable() || may && a.served(), "%s: %v\n%s", f.name, a, o.lastWords())
			worst = max(worst, a.done.Sub(a.begun))
			if a.unavailable() {
				refused++
			}
		}
	}
	require.Regexp(t, f.says, o.stderr.String()[logged:], f.name)
	f.end()
	ended := time.Now()
	recovered := o.healthy(t, w, f.name).Sub(ended)
	t.Logf("%-50s %2d of %2d told to come again, the last after %5.2f s; all served %5.2f s after its end", f.name,
		refused, f.waves*len(w.calls), worst.Seconds(), recovered.Seconds())
}

// memory is a folder in memory where the machine has one: these servers wait for their disk at each commit.
func memory(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "promises-local-test-")
	if err != nil {
		return filepath.Join(tempFolder(t), "data")
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	require.NoError(t, os.Chmod(dir, 0o711)) //nolint:gosec // see tempFolder
	return filepath.Join(dir, "data")
}
