package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/auth"
	"github.com/flovyn/promises/shared/skip"
)

// A database that cannot be reached, or says nothing, or too late.
func TestDatabaseSilent(t *testing.T) {
	t.Parallel()
	o := newOutage(t, memory(t))
	start := func() { require.NoError(t, o.proxy.Start()) }
	o.suffer(t, trouble{name: "connections are refused", says: "connection refused", waves: 3, begin: o.proxy.Stop, end: start})

	both := func(kind, attributes string) (remove func()) {
		up, down := o.toxic(t, "upstream", kind, attributes), o.toxic(t, "downstream", kind, attributes)
		return func() { up(); down() }
	}
	var remove func()
	for _, f := range []trouble{
		{name: "answers do not arrive", begin: func() { remove = o.toxic(t, "downstream", "timeout", `{"timeout":0}`) }},
		{name: "nothing arrives, on new connections either", begin: func() { remove = both("timeout", `{"timeout":0}`); o.hangUp(t) }},
		{name: "an answer takes 1.2 s", begin: func() { remove = o.toxic(t, "downstream", "latency", `{"latency":1200}`) }, writes: true},
		{name: "an answer takes 6 s", begin: func() { remove = o.toxic(t, "downstream", "latency", `{"latency":6000}`) }},
	} {
		f.waves = 1
		f.end = func() { o.proxy.Stop(); remove(); start() } // what is on its way does not arrive
		o.suffer(t, f)
	}

	// The server is there, and the sessions that are open are not: as after a failover that nobody was told of. A connection
	// that has idled for a second is looked at first.
	w := o.work(t)
	o.healthy(t, w, "sessions go silent")
	time.Sleep(1100 * time.Millisecond)
	sessions := o.sessions(t)
	signalAll(sessions, syscall.SIGSTOP)
	defer signalAll(sessions, syscall.SIGCONT)
	refused := 0
	for _, a := range o.all(t, w.calls, received.unavailable) {
		require.True(t, a.served() || a.unavailable(), "sessions go silent: %v\n%s", a, o.lastWords())
		if a.unavailable() {
			refused++
		}
	}
	t.Logf("%d calls told to come again, and all served", refused)
}

// A connection that is cut between the commit and its answer: the caller is told to come again, and nothing happens twice.
func TestDatabaseAnswersLost(t *testing.T) {
	t.Parallel()
	o := newOutage(t, memory(t))
	lost := map[string]bool{}
	w := o.work(t)
	for attempt := 0; len(lost) < len(w.events); attempt++ {
		require.Less(t, attempt, 20, "only these were lost: %v", lost)
		o.healthy(t, o.work(t), "before") // so that every function has a connection that it trusts
		w = o.work(t)
		o.lookUpTokens(t, w)
		remove := o.toxic(t, "downstream", "limit_data", `{"bytes":0}`)
		calls := slices.Clone(w.calls) // of two calls of one function, one may meet a process that knows no token yet: not always the same
		rand.Shuffle(len(calls), func(i, j int) { calls[i], calls[j] = calls[j], calls[i] })
		for _, a := range o.all(t, calls, once) {
			require.True(t, a.unavailable(), "%v", a)
		}
		o.proxy.Stop()
		remove()
		require.NoError(t, o.proxy.Start())
		for _, e := range o.log(t, w.workflow) {
			if e.EventType != "PROMISE_CREATED" || e.PromiseName == "new" {
				lost[e.PromiseName] = true
			}
		}
		o.healthy(t, w, "answers were lost")
	}
	t.Logf("applied, and nobody was told: %d kinds of change", len(lost))
}

// lookUpTokens makes the processes of settle-callback keep that the tokens of callback URLs are in force: their settlement is the first
// thing then that they ask the database.
func (o *outage) lookUpTokens(t *testing.T, w *work) {
	t.Helper()
	for _, c := range w.calls {
		if strings.HasPrefix(c.name, "callback, ") {
			c.body = "{"
			a := o.make(t.Context(), c)
			require.Equal(t, "malformed_json", a.code, "%v\n%s", a, o.lastWords())
		}
	}
}

// A database that answers, and does not do what it is asked for.
func TestDatabaseRefuses(t *testing.T) {
	t.Parallel()
	o := newOutage(t, memory(t))
	sql := func(statements ...string) func() {
		return func() { t.Helper(); o.sql(t, statements...) }
	}
	readOnly := func(want string) func() {
		return func() {
			t.Helper()
			o.sql(t, "ALTER SYSTEM SET default_transaction_read_only = "+want, "SELECT pg_reload_conf()")
			require.Eventually(t, func() bool { // the server does it when it comes to it
				conn, err := pgx.Connect(t.Context(), o.server.URL())
				require.NoError(t, err)
				defer conn.Close(t.Context()) //nolint:errcheck // it was only read from
				var is string
				require.NoError(t, conn.QueryRow(t.Context(), "SHOW default_transaction_read_only").Scan(&is))
				return is == want
			}, time.Minute, time.Millisecond)
			o.hangUp(t)
		}
	}
	var others []*pgx.Conn
	crowd := func() {
		t.Helper()
		o.sql(t, "CREATE ROLE other LOGIN PASSWORD 'x'")
		others = append(others, o.admin(t, "postgres"), o.admin(t, "postgres")) // so that no place becomes free when ours end
		var places int                                                          // for them all: as long as they have not all of these, the service may get one
		require.NoError(t, others[0].QueryRow(t.Context(), `SELECT SUM(setting::INT * CASE name WHEN 'max_connections' THEN 1 ELSE -1 END)
			FROM pg_settings WHERE name IN ('max_connections', 'superuser_reserved_connections', 'reserved_connections')`).Scan(&places))
		c, err := pgx.ParseConfig(o.server.URL())
		require.NoError(t, err)
		c.User, c.Password, c.Database = "other", "x", "postgres"
		for deadline := time.Now().Add(time.Minute); len(others) < places; {
			conn, err := pgx.ConnectConfig(t.Context(), c)
			if err == nil {
				others = append(others, conn)
				continue
			}
			require.ErrorContains(t, err, "SQLSTATE 53300")
			require.True(t, time.Now().Before(deadline), "%d of %d places", len(others), places)
			o.hangUp(t)
		}
	}
	var lock *pgx.Conn
	hold := func(statements ...string) func() {
		return func() {
			t.Helper()
			lock = o.admin(t, "service")
			for _, s := range append([]string{"BEGIN"}, statements...) {
				_, err := lock.Exec(t.Context(), s)
				require.NoError(t, err)
			}
		}
	}
	release := func() { require.NoError(t, lock.Close(t.Context())) }
	const tables = "LOCK TABLE tenant, api_key, workflow_execution, promise"
	all := func(fs ...func()) func() {
		return func() {
			t.Helper()
			for _, f := range fs {
				f()
			}
		}
	}
	hangUp := func() { o.hangUp(t) }
	for _, f := range []trouble{
		{name: "read-only, as a replica is", says: "SQLSTATE 25006", reads: true, begin: readOnly("on"), end: readOnly("off")},
		{name: "the role has no connection left", says: "SQLSTATE 53300",
			begin: all(sql("ALTER ROLE service CONNECTION LIMIT 0"), hangUp), end: sql("ALTER ROLE service CONNECTION LIMIT -1")},
		{name: "others have all connections", says: "SQLSTATE 53300", begin: crowd, end: func() {
			for _, conn := range others {
				require.NoError(t, conn.Close(t.Context()))
			}
		}},
		{name: "the database takes no connections", says: "SQLSTATE 55000",
			begin: all(sql("ALTER DATABASE service ALLOW_CONNECTIONS false"), hangUp), end: sql("ALTER DATABASE service ALLOW_CONNECTIONS true")},
		{name: "the database is gone", says: "SQLSTATE 3D000",
			begin: all(sql("ALTER DATABASE service ALLOW_CONNECTIONS false"), hangUp,
				sql("ALTER DATABASE service RENAME TO elsewhere", "ALTER DATABASE elsewhere ALLOW_CONNECTIONS true")),
			end: sql("ALTER DATABASE elsewhere RENAME TO service")},
		{name: "the password is another", says: "SQLSTATE 28P01",
			begin: all(sql("ALTER ROLE service PASSWORD 'of tomorrow'"), hangUp), end: sql("ALTER ROLE service PASSWORD 'of today'")},
		{name: "a statement may take 50 ms, and takes longer", says: "SQLSTATE 57014",
			begin: all(sql("ALTER ROLE service SET statement_timeout = 50"), hangUp, hold(tables)),
			end:   all(release, sql("ALTER ROLE service RESET statement_timeout"), hangUp)},
		{name: "a lock may take 50 ms, and takes longer", says: "SQLSTATE 55P03",
			begin: all(sql("ALTER ROLE service SET lock_timeout = 50"), hangUp, hold(tables)),
			end:   all(release, sql("ALTER ROLE service RESET lock_timeout"), hangUp)},
		{name: "somebody has locked the tables", says: "context deadline exceeded", waves: 1, begin: hold(tables), end: release},
		{name: "somebody has locked all rows", says: "context deadline exceeded", waves: 1, reads: true,
			begin: hold("SELECT FROM workflow_execution FOR UPDATE"), end: release},
	} {
		f.waves = cmp.Or(f.waves, 2)
		o.suffer(t, f)
	}
}

// A database that is shut down and started again.
func TestDatabaseStopped(t *testing.T) {
	t.Parallel()
	o := newOutage(t, memory(t))
	var last *pgx.Conn
	o.suffer(t, trouble{name: "the server shuts down", says: "SQLSTATE 57P03", waves: 2,
		begin: func() {
			last = o.admin(t, "postgres")
			sessions := o.sessions(t)
			o.signal(t, syscall.SIGTERM) // it waits for its sessions to end, and takes no new ones
			require.Eventually(t, func() bool {
				conn, err := pgx.Connect(t.Context(), o.server.URL())
				if err == nil {
					require.NoError(t, conn.Close(t.Context()))
				}
				return err != nil
			}, time.Minute, 5*time.Millisecond)
			signalAll(sessions, syscall.SIGTERM)
		},
		end: func() {
			require.NoError(t, last.Close(t.Context()))
			o.restart(t)
		}})

	// What can be told without a database is told; what cannot is not guessed, and those who wait already are not forgotten.
	pending := o.until(t, apiCall{name: "create", method: "POST", url: o.promises("/promises"), credential: o.ready.APIKey,
		body: `{"workflowExecutionId":"0b5c1f4e-6a0e-4f0a-9c58-2d1a3c7e9b10","name":"pending"}`})
	var p struct{ PromiseID string }
	require.NoError(t, json.Unmarshal([]byte(pending.body), &p))
	waiting := make(chan received, 1)
	go func() {
		waiting <- o.make(context.Background(), apiCall{name: "wait", method: "GET", credential: o.ready.APIKey,
			url: o.promises("/promises/id:" + p.PromiseID + "/wait?waitSeconds=25")})
	}()
	unknown := auth.NewAPIKey()
	get := func(tenant, identifier, credential string) received {
		return o.make(t.Context(), apiCall{name: "get", method: "GET", credential: credential,
			url: o.ready.HTTPURL + "/api/tenants/" + tenant + "/promises/" + identifier})
	}
	known := "id:" + p.PromiseID
	o.suffer(t, trouble{name: "the server is stopped", says: "EOF|connection reset|SQLSTATE 57P01", waves: 3, end: func() { o.startServer(t) }, begin: func() {
		time.Sleep(time.Second) // until the waiting call has looked
		require.NoError(t, o.server.Stop())
		a := <-waiting
		require.True(t, a.unavailable(), "%v", a)
		require.Equal(t, 401, get("demo", known, "").status)
		require.Equal(t, 403, get("demo", known, "garbage").status)
		require.Equal(t, 400, get("demo", "id:x", o.ready.APIKey).status)
		require.Equal(t, 404, get("another", known, o.ready.APIKey).status, "another tenant's key")
		require.True(t, get("demo", known, unknown).unavailable())
	}})
	require.Equal(t, 401, get("demo", known, unknown).status, "what was told then is not held against anybody")
	require.Equal(t, 404, get("another", known, o.ready.APIKey).status)
	require.Equal(t, 404, get("demo", "id:"+unusedID, o.ready.APIKey).status)
}

const unusedID = "7d9f1f3a-3c1e-4e5b-8a57-0c2f6f1f4a11"

// A database whose disk is full.
func TestDatabaseFull(t *testing.T) {
	t.Parallel()
	disk := smallDisk(t)
	if disk == "" {
		skip.Now(t, "a full disk is a small file system of its own, which Linux lets root alone mount")
	}
	o := newOutage(t, disk)
	ballast := filepath.Join(filepath.Dir(o.dir), "ballast")
	t.Cleanup(func() { os.Remove(ballast) }) // or the server cannot even end
	fill := func() {
		t.Helper()
		f, err := os.Create(ballast)
		require.NoError(t, err)
		_, err = io.Copy(f, zeros{})
		require.ErrorIs(t, err, syscall.ENOSPC)
		require.NoError(t, f.Close())
	}
	metadata := fmt.Sprintf(`{"x":%q}`, strings.Repeat("x", 900))
	untilRefused := func(t *testing.T) {
		t.Helper()
		for n := 0; ; n++ {
			a := o.make(t.Context(), apiCall{name: "create", method: "POST", url: o.promises("/promises"), credential: o.ready.APIKey,
				body: fmt.Sprintf(`{"workflowExecutionId":%q,"name":"%d","metadata":%s}`, uuid.NewString(), n, metadata)})
			require.True(t, a.served() || a.unavailable(), "%v", a)
			if a.unavailable() {
				return
			}
			require.Less(t, n, 100_000, "there is no end of the disk")
		}
	}
	o.suffer(t, trouble{name: "the disk is full", says: "SQLSTATE 53100", waves: 2, reads: true, writes: true,
		begin: func() { fill(); untilRefused(t) },
		end:   func() { require.NoError(t, os.Remove(ballast)) }})
	o.suffer(t, trouble{name: "the disk is full, and the server crashes of it", says: "SQLSTATE 57P0", waves: 2, writes: true,
		begin: func() {
			fill()
			conn := o.admin(t, "postgres")
			var err error
			for err == nil { // its log is written in files of 16 MB, and the next one does not fit
				_, err = conn.Exec(t.Context(), "SELECT pg_switch_wal(), pg_logical_emit_message(false, 'test', repeat('x', 1000))")
			}
			require.True(t, conn.IsClosed(), "a statement has failed, and not the server: %v", err)
			untilRefused(t)
		},
		end: func() {
			require.NoError(t, os.Remove(ballast))
			o.restart(t)
		}})
}

// zeros is an endless file.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// A database that is killed while much is going on: every call can be repeated until it is served, and is applied once.
func TestDatabaseKilled(t *testing.T) {
	t.Parallel()
	o := newOutage(t, memory(t))
	const rounds = 3
	var wg sync.WaitGroup
	var mu sync.Mutex
	var worst time.Duration
	var wrong []received
	refused, served := 0, make([]int, rounds+1) // by how often the server had been killed
	round, stop := 0, make(chan struct{})
	workflows := make([]string, 8)
	created := make([]int, len(workflows))
	for caller := range workflows {
		workflows[caller] = uuid.NewString()
		repeat := func(c apiCall) received {
			for {
				a := o.make(t.Context(), c)
				mu.Lock()
				worst = max(worst, a.done.Sub(a.begun))
				if a.served() {
					served[round]++
				} else if refused++; !a.unavailable() {
					wrong = append(wrong, a)
				}
				mu.Unlock()
				if !a.unavailable() {
					return a
				}
				time.Sleep(10 * time.Millisecond)
			}
		}
		wg.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				c := apiCall{name: "create", method: "POST", url: o.promises("/promises"), credential: o.ready.APIKey,
					body: fmt.Sprintf(`{"workflowExecutionId":%q,"name":"%d"}`, workflows[caller], n)}
				var p struct{ PromiseID string }
				if json.Unmarshal([]byte(repeat(c).body), &p) != nil || p.PromiseID == "" {
					return
				}
				created[caller] = n + 1
				c.name, c.url, c.body = "resolve", o.promises("/promises/id:"+p.PromiseID+"/resolve"), `{"value":1}`
				repeat(c)
			}
		})
	}
	until := func(met func() bool) {
		t.Helper()
		require.Eventually(t, func() bool {
			mu.Lock()
			defer mu.Unlock()
			return met()
		}, time.Minute, time.Millisecond, "%s", o.lastWords())
	}
	for range rounds {
		until(func() bool { return served[round] >= 2*len(workflows) })
		mu.Lock()
		before := refused
		mu.Unlock()
		o.signal(t, syscall.SIGQUIT)
		until(func() bool { return refused > before })
		o.restart(t)
		mu.Lock()
		round++
		mu.Unlock()
	}
	until(func() bool { return served[round] > 0 })
	close(stop)
	wg.Wait()
	require.Empty(t, wrong, "%s", o.lastWords())
	promises := 0
	for caller, workflow := range workflows {
		promises += created[caller]
		require.Equal(t, 2*created[caller], len(o.log(t, workflow)), "a creation and a settlement of each")
	}
	t.Logf("%d promises, the server killed %d times, %d calls told to come again, the longest after %.2f s", promises, rounds, refused, worst.Seconds())
}
