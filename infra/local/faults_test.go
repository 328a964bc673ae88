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

// The database cannot be reached, does not answer, or answers too late.
func TestDatabaseSilent(t *testing.T) {
	t.Parallel()
	rig := newFaultRig(t, memoryFolder(t))
	stop := func(*testing.T) { rig.proxy.Stop() }
	start := func(t *testing.T) { t.Helper(); require.NoError(t, rig.proxy.Start()) }
	rig.testFault(t, databaseFault{name: "connections are refused", logs: "connection refused", rounds: 3, begin: stop, end: start})

	both := func(t *testing.T, kind, attributes string) (remove func()) {
		t.Helper()
		up, down := rig.addToxic(t, "upstream", kind, attributes), rig.addToxic(t, "downstream", kind, attributes)
		return func() { up(); down() }
	}
	var remove func()
	for _, f := range []databaseFault{
		{name: "answers do not arrive", begin: func(t *testing.T) { remove = rig.addToxic(t, "downstream", "timeout", `{"timeout":0}`) }},
		{name: "nothing arrives, on new connections either", begin: func(t *testing.T) { remove = both(t, "timeout", `{"timeout":0}`); rig.closeSessions(t) }},
		{name: "an answer takes 1.2 s", begin: func(t *testing.T) { remove = rig.addToxic(t, "downstream", "latency", `{"latency":1200}`) }, writes: true},
		{name: "an answer takes 6 s", begin: func(t *testing.T) { remove = rig.addToxic(t, "downstream", "latency", `{"latency":6000}`) }},
	} {
		f.rounds = 1
		f.end = func(t *testing.T) { t.Helper(); rig.proxy.Stop(); remove(); start(t) } // delayed answers are dropped
		rig.testFault(t, f)
	}

	// As after a failover, the server accepts connections, but open sessions do not answer. The service tests a connection that has been
	// idle for a second before it uses it.
	t.Run("open sessions do not answer", func(t *testing.T) {
		w := rig.newWorkload(t)
		rig.requireRecovery(t, w, "sessions go silent")
		time.Sleep(1100 * time.Millisecond)
		sessions := rig.sessions(t)
		signalAll(sessions, syscall.SIGSTOP)
		defer signalAll(sessions, syscall.SIGCONT)
		refused := 0
		for _, a := range rig.doAll(t, w.calls, callResult.unavailable) {
			require.True(t, a.served() || a.unavailable(), "sessions go silent: %v\n%s", a, rig.logTail())
			if a.unavailable() {
				refused++
			}
		}
		t.Logf("%d calls were unavailable, and all were served", refused)
	})
}

// A connection is cut between a commit and its answer. The caller gets unavailable and repeats the call, which is applied once.
func TestDatabaseAnswersLost(t *testing.T) {
	t.Parallel()
	rig := newFaultRig(t, memoryFolder(t))
	lost := map[string]bool{}
	w := rig.newWorkload(t)
	for attempt := 0; len(lost) < len(w.events); attempt++ {
		require.Less(t, attempt, 20, "only these changes lost their answers: %v", lost)
		rig.requireRecovery(t, rig.newWorkload(t), "before") // so that every function has a recently used connection
		w = rig.newWorkload(t)
		rig.lookUpTokens(t, w)
		remove := rig.addToxic(t, "downstream", "limit_data", `{"bytes":0}`)
		calls := slices.Clone(w.calls) // in random order: of two calls of one function, one may meet a process that has not looked up the token
		rand.Shuffle(len(calls), func(i, j int) { calls[i], calls[j] = calls[j], calls[i] })
		for _, a := range rig.doAll(t, calls, noRetry) {
			require.True(t, a.unavailable(), "%v", a)
		}
		rig.proxy.Stop()
		remove()
		require.NoError(t, rig.proxy.Start())
		for _, e := range rig.eventLog(t, w.workflow) {
			if e.EventType != "PROMISE_CREATED" || e.PromiseName == "new" {
				lost[e.PromiseName] = true
			}
		}
		rig.requireRecovery(t, w, "answers were lost")
	}
	t.Logf("%d kinds of change were applied without an answer", len(lost))
}

// lookUpTokens makes the processes of settle-callback cache that the tokens of callback URLs are valid. Then their first statement is the
// settlement.
func (rig *faultRig) lookUpTokens(t *testing.T, w *workload) {
	t.Helper()
	for _, c := range w.calls {
		if strings.HasPrefix(c.name, "callback, ") {
			c.body = "{"
			a := rig.do(t.Context(), c)
			require.Equal(t, "malformed_json", a.code, "%v\n%s", a, rig.logTail())
		}
	}
}

// The database answers but refuses to work.
func TestDatabaseRefuses(t *testing.T) {
	t.Parallel()
	rig := newFaultRig(t, memoryFolder(t))
	sql := func(statements ...string) func(*testing.T) {
		return func(t *testing.T) { t.Helper(); rig.execAsAdmin(t, statements...) }
	}
	readOnly := func(want string) func(*testing.T) {
		return func(t *testing.T) {
			t.Helper()
			rig.execAsAdmin(t, "ALTER SYSTEM SET default_transaction_read_only = "+want, "SELECT pg_reload_conf()")
			require.Eventually(t, func() bool { // the server reloads its settings with a delay
				conn, err := pgx.Connect(t.Context(), rig.server.URL())
				require.NoError(t, err)
				defer conn.Close(t.Context()) //nolint:errcheck // nothing is lost with it
				var is string
				require.NoError(t, conn.QueryRow(t.Context(), "SHOW default_transaction_read_only").Scan(&is))
				return is == want
			}, time.Minute, time.Millisecond)
			rig.closeSessions(t)
		}
	}
	var others []*pgx.Conn
	takeAllConnections := func(t *testing.T) {
		t.Helper()
		rig.execAsAdmin(t, "CREATE ROLE other LOGIN PASSWORD 'x'")
		others = append(others, rig.admin(t, "postgres"), rig.admin(t, "postgres")) // connect before the service's sessions end, so that their slots can be filled
		var available int                                                           // the number of connections for all; the service may connect until others has that many
		require.NoError(t, others[0].QueryRow(t.Context(), `SELECT SUM(setting::INT * CASE name WHEN 'max_connections' THEN 1 ELSE -1 END)
			FROM pg_settings WHERE name IN ('max_connections', 'superuser_reserved_connections', 'reserved_connections')`).Scan(&available))
		c, err := pgx.ParseConfig(rig.server.URL())
		require.NoError(t, err)
		c.User, c.Password, c.Database = "other", "x", "postgres"
		for deadline := time.Now().Add(time.Minute); len(others) < available; {
			conn, err := pgx.ConnectConfig(t.Context(), c)
			if err == nil {
				others = append(others, conn)
				continue
			}
			require.ErrorContains(t, err, "SQLSTATE 53300")
			require.True(t, time.Now().Before(deadline), "%d of %d connections", len(others), available)
			rig.closeSessions(t)
		}
	}
	var lock *pgx.Conn
	lockWith := func(statements ...string) func(*testing.T) {
		return func(t *testing.T) {
			t.Helper()
			lock = rig.admin(t, "service")
			for _, s := range append([]string{"BEGIN"}, statements...) {
				_, err := lock.Exec(t.Context(), s)
				require.NoError(t, err)
			}
		}
	}
	release := func(t *testing.T) { t.Helper(); require.NoError(t, lock.Close(t.Context())) }
	const tables = "LOCK TABLE tenant, api_key, workflow_execution, promise"
	all := func(fs ...func(*testing.T)) func(*testing.T) {
		return func(t *testing.T) {
			t.Helper()
			for _, f := range fs {
				f(t)
			}
		}
	}
	closeSessions := func(t *testing.T) { t.Helper(); rig.closeSessions(t) }
	for _, f := range []databaseFault{
		{name: "read-only, like a replica", logs: "SQLSTATE 25006", reads: true, begin: readOnly("on"), end: readOnly("off")},
		{name: "the role has no connection left", logs: "SQLSTATE 53300",
			begin: all(sql("ALTER ROLE service CONNECTION LIMIT 0"), closeSessions), end: sql("ALTER ROLE service CONNECTION LIMIT -1")},
		{name: "other clients have all connections", logs: "SQLSTATE 53300", begin: takeAllConnections, end: func(t *testing.T) {
			for _, conn := range others {
				require.NoError(t, conn.Close(t.Context()))
			}
		}},
		{name: "the database accepts no connections", logs: "SQLSTATE 55000",
			begin: all(sql("ALTER DATABASE service ALLOW_CONNECTIONS false"), closeSessions), end: sql("ALTER DATABASE service ALLOW_CONNECTIONS true")},
		{name: "the database does not exist", logs: "SQLSTATE 3D000",
			begin: all(sql("ALTER DATABASE service ALLOW_CONNECTIONS false"), closeSessions,
				sql("ALTER DATABASE service RENAME TO elsewhere", "ALTER DATABASE elsewhere ALLOW_CONNECTIONS true")),
			end: sql("ALTER DATABASE elsewhere RENAME TO service")},
		{name: "the password has changed", logs: "SQLSTATE 28P01",
			begin: all(sql("ALTER ROLE service PASSWORD 'of tomorrow'"), closeSessions), end: sql("ALTER ROLE service PASSWORD 'of today'")},
		{name: "a statement exceeds its timeout", logs: "SQLSTATE 57014",
			begin: all(sql("ALTER ROLE service SET statement_timeout = 50"), closeSessions, lockWith(tables)),
			end:   all(release, sql("ALTER ROLE service RESET statement_timeout"), closeSessions)},
		{name: "a lock exceeds its timeout", logs: "SQLSTATE 55P03",
			begin: all(sql("ALTER ROLE service SET lock_timeout = 50"), closeSessions, lockWith(tables)),
			end:   all(release, sql("ALTER ROLE service RESET lock_timeout"), closeSessions)},
		{name: "another transaction has locked the tables", logs: "context deadline exceeded", rounds: 1, begin: lockWith(tables), end: release},
		{name: "another transaction has locked all rows", logs: "context deadline exceeded", rounds: 1, reads: true,
			begin: lockWith("SELECT FROM workflow_execution FOR UPDATE"), end: release},
	} {
		f.rounds = cmp.Or(f.rounds, 2)
		rig.testFault(t, f)
	}
}

// The database is shut down and started again.
func TestDatabaseStopped(t *testing.T) {
	t.Parallel()
	rig := newFaultRig(t, memoryFolder(t))
	var last *pgx.Conn
	rig.testFault(t, databaseFault{name: "the server shuts down", logs: "SQLSTATE 57P03", rounds: 2,
		begin: func(t *testing.T) {
			last = rig.admin(t, "postgres")
			sessions := rig.sessions(t)
			rig.signalServer(t, syscall.SIGTERM) // the server waits for its sessions to end and accepts no new ones
			require.Eventually(t, func() bool {
				conn, err := pgx.Connect(t.Context(), rig.server.URL())
				if err == nil {
					require.NoError(t, conn.Close(t.Context()))
				}
				return err != nil
			}, time.Minute, 5*time.Millisecond)
			signalAll(sessions, syscall.SIGTERM)
		},
		end: func(t *testing.T) {
			require.NoError(t, last.Close(t.Context()))
			rig.restart(t)
		}})

	// Calls that need no database are answered as always. All others, waiting calls included, get unavailable.
	pending := rig.untilServed(t, apiCall{name: "create", method: "POST", url: rig.promises("/promises"), credential: rig.ready.APIKey,
		body: `{"workflowExecutionId":"0b5c1f4e-6a0e-4f0a-9c58-2d1a3c7e9b10","name":"pending"}`})
	var p struct{ PromiseID string }
	require.NoError(t, json.Unmarshal([]byte(pending.body), &p))
	waiting := make(chan callResult, 1)
	go func() {
		waiting <- rig.do(context.Background(), apiCall{name: "wait", method: "GET", credential: rig.ready.APIKey,
			url: rig.promises("/promises/id:" + p.PromiseID + "/wait?waitSeconds=25")})
	}()
	unknown := auth.NewAPIKey()
	get := func(t *testing.T, tenant, identifier, credential string) callResult {
		return rig.do(t.Context(), apiCall{name: "get", method: "GET", credential: credential,
			url: rig.ready.HTTPURL + "/api/tenants/" + tenant + "/promises/" + identifier})
	}
	known := "id:" + p.PromiseID
	rig.testFault(t, databaseFault{name: "the server is stopped", logs: "EOF|connection reset|SQLSTATE 57P01", rounds: 3, end: func(t *testing.T) { rig.startServer(t) }, begin: func(t *testing.T) {
		time.Sleep(time.Second) // until the waiting call has polled
		require.NoError(t, rig.server.Stop())
		a := <-waiting
		require.True(t, a.unavailable(), "%v", a)
		require.Equal(t, 401, get(t, "demo", known, "").status)
		require.Equal(t, 403, get(t, "demo", known, "garbage").status)
		require.Equal(t, 400, get(t, "demo", "id:x", rig.ready.APIKey).status)
		require.Equal(t, 404, get(t, "another", known, rig.ready.APIKey).status, "another tenant's key")
		require.True(t, get(t, "demo", known, unknown).unavailable())
	}})
	require.Equal(t, 401, get(t, "demo", known, unknown).status, "the answer from the outage is not cached")
	require.Equal(t, 404, get(t, "another", known, rig.ready.APIKey).status)
	require.Equal(t, 404, get(t, "demo", "id:"+unusedID, rig.ready.APIKey).status)
}

const unusedID = "7d9f1f3a-3c1e-4e5b-8a57-0c2f6f1f4a11"

// The database's disk is full.
func TestDatabaseFull(t *testing.T) {
	t.Parallel()
	disk := smallDisk(t)
	if disk == "" {
		skip.Now(t, "the test mounts a small file system, which only root on Linux may do")
	}
	rig := newFaultRig(t, disk)
	ballast := filepath.Join(filepath.Dir(rig.dir), "ballast")
	t.Cleanup(func() { os.Remove(ballast) }) // with a full disk the server could not stop
	fill := func(t *testing.T) {
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
			a := rig.do(t.Context(), apiCall{name: "create", method: "POST", url: rig.promises("/promises"), credential: rig.ready.APIKey,
				body: fmt.Sprintf(`{"workflowExecutionId":%q,"name":"%d","metadata":%s}`, uuid.NewString(), n, metadata)})
			require.True(t, a.served() || a.unavailable(), "%v", a)
			if a.unavailable() {
				return
			}
			require.Less(t, n, 100_000, "the disk does not become full")
		}
	}
	rig.testFault(t, databaseFault{name: "the disk is full", logs: "SQLSTATE 53100", rounds: 2, reads: true, writes: true,
		begin: func(t *testing.T) { fill(t); untilRefused(t) },
		end:   func(t *testing.T) { require.NoError(t, os.Remove(ballast)) }})
	rig.testFault(t, databaseFault{name: "the disk is full and the server crashes", logs: "SQLSTATE 57P0", rounds: 2, writes: true,
		begin: func(t *testing.T) {
			fill(t)
			conn := rig.admin(t, "postgres")
			var err error
			for err == nil { // the write-ahead log has files of 16 MB, and the next one does not fit
				_, err = conn.Exec(t.Context(), "SELECT pg_switch_wal(), pg_logical_emit_message(false, 'test', repeat('x', 1000))")
			}
			require.True(t, conn.IsClosed(), "a statement has failed, but the server has not crashed: %v", err)
			untilRefused(t)
		},
		end: func(t *testing.T) {
			require.NoError(t, os.Remove(ballast))
			rig.restart(t)
		}})
}

// zeros is an endless source of zero bytes.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// The database is killed under load. Every call can be repeated until it is served, and is applied once.
func TestDatabaseKilled(t *testing.T) {
	t.Parallel()
	rig := newFaultRig(t, memoryFolder(t))
	const rounds = 3
	var wg sync.WaitGroup
	var mu sync.Mutex
	var worst time.Duration
	var wrong []callResult
	refused, served := 0, make([]int, rounds+1) // the index is the number of kills so far
	round, stop := 0, make(chan struct{})
	workflows := make([]string, 8)
	created := make([]int, len(workflows))
	for caller := range workflows {
		workflows[caller] = uuid.NewString()
		repeat := func(c apiCall) callResult {
			for {
				a := rig.do(t.Context(), c)
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
				c := apiCall{name: "create", method: "POST", url: rig.promises("/promises"), credential: rig.ready.APIKey,
					body: fmt.Sprintf(`{"workflowExecutionId":%q,"name":"%d"}`, workflows[caller], n)}
				var p struct{ PromiseID string }
				if json.Unmarshal([]byte(repeat(c).body), &p) != nil || p.PromiseID == "" {
					return
				}
				created[caller] = n + 1
				c.name, c.url, c.body = "resolve", rig.promises("/promises/id:"+p.PromiseID+"/resolve"), `{"value":1}`
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
		}, time.Minute, time.Millisecond, "%s", rig.logTail())
	}
	for range rounds {
		until(func() bool { return served[round] >= 2*len(workflows) })
		mu.Lock()
		before := refused
		mu.Unlock()
		rig.signalServer(t, syscall.SIGQUIT)
		until(func() bool { return refused > before })
		rig.restart(t)
		mu.Lock()
		round++
		mu.Unlock()
	}
	until(func() bool { return served[round] > 0 })
	close(stop)
	wg.Wait()
	require.Empty(t, wrong, "%s", rig.logTail())
	promises := 0
	for caller, workflow := range workflows {
		promises += created[caller]
		require.Equal(t, 2*created[caller], len(rig.eventLog(t, workflow)), "one creation and one settlement for each promise")
	}
	t.Logf("%d promises, %d kills of the server, %d calls unavailable, the slowest after %.2f s", promises, rounds, refused, worst.Seconds())
}
