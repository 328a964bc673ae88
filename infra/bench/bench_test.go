package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/shirou/gopsutil/v4/process"
	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/promise"
	"github.com/flovyn/promises/shared/repository"
	"github.com/flovyn/promises/shared/sweep"
)

var bench string // the command

func TestMain(m *testing.M) { os.Exit(buildAndRun(m)) }

func buildAndRun(m *testing.M) (code int) {
	dir, err := os.MkdirTemp("", "bench-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir) //nolint:errcheck // the system removes temporary files
	bench = filepath.Join(dir, "bench")
	if out, err := exec.Command("go", "build", "-o", bench, ".").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "%s%v\n", out, err)
		return 1
	}
	return m.Run()
}

// measured runs the command with --json and decodes its output.
func measured[T any](t *testing.T, args ...string) (got T) {
	t.Helper()
	cmd := exec.Command(bench, append(args, "--json")...)
	var progress bytes.Buffer
	cmd.Stderr = &progress
	out, err := cmd.Output()
	require.NoError(t, err, &progress)
	require.NoError(t, json.Unmarshal(out, &got))
	return got
}

// The table has a row for each operation at each number of clients.
func TestTable(t *testing.T) {
	t.Parallel()
	svg := filepath.Join(t.TempDir(), "ratios.svg")
	got := measured[report](t, "--promises", "6000", "--calls", "120", "--clients", "1,2", "--svg", svg)
	statements := map[string]float64{}
	for _, r := range got.Rows {
		statements[r.Operation] = r.Statements
		t.Run(fmt.Sprintf("%s, %d clients", r.Operation, r.Clients), func(t *testing.T) {
			calls := 120
			if strings.HasPrefix(r.Operation, "HTTP") || strings.HasPrefix(r.Operation, "Invoke") {
				calls = 40
			}
			require.Equal(t, calls, r.Calls)
			require.Positive(t, r.OpsPerSecond)
			require.Positive(t, r.RatioToLimit)
			require.True(t, 0 < r.P50Ms && r.P50Ms <= r.P95Ms && r.P95Ms <= r.P99Ms)
		})
	}
	want := map[string]float64{
		"limit": 1, "settle by id": 1, "settle by key": 1, "transaction of seven": 7, "create": 1, "create + settle": 2, "get": 1,
		"HTTP: nothing": 0, "HTTP: settle by id": 1, "HTTP: create + settle": 2, "Invoke: settle by id": 1,
	}
	for operation, n := range want {
		t.Run("statements of "+operation, func(t *testing.T) {
			require.InDelta(t, n, statements[operation], 0)
		})
	}
	require.Len(t, statements, len(want))
	require.Len(t, got.Rows, 2*len(statements))
	require.FileExists(t, svg)
}

// The statements of a call are counted, and those of the sweep, the relay, the authorizer and pgx's ping are recognised by their text.
func TestStatements(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	screen := &progress{out: io.Discard, begun: time.Now()}
	c, err := startPostgres(ctx, options{}, screen)
	require.NoError(t, err)
	defer func() { require.NoError(t, c.stop()) }()
	db, err := c.load(ctx, 100, 10, screen)
	require.NoError(t, err)
	background, err := backgroundStatements(ctx, db)
	require.NoError(t, err)

	db.url, err = db.urlWith("log_statement", "all")
	require.NoError(t, err)
	pool, err := db.pool(ctx, 1, nil)
	require.NoError(t, err)
	defer pool.Close()
	store := repository.New(pool)
	sent := func(t *testing.T, do func()) (own, timed int) {
		t.Helper()
		before, err := os.ReadFile(c.server.Log())
		require.NoError(t, err)
		do()
		after, err := os.ReadFile(c.server.Log())
		require.NoError(t, err)
		for _, sql := range statementsIn(after[len(before):]) {
			if background[sql] {
				timed++
			} else {
				own++
			}
		}
		return own, timed
	}
	for name, c := range map[string]struct {
		own, timed int
		do         func(*testing.T) error
	}{
		"settle":               {1, 0, func(*testing.T) error { return resolve(ctx, store, promise.ByID(promiseID(1))) }},
		"transaction of seven": {7, 0, func(*testing.T) error { return transactionOfSeven(ctx, pool, workflowID(0), promiseID(2)) }},
		"several lines": {1, 0, func(*testing.T) error {
			_, err := pool.Exec(ctx, "SELECT $1::TEXT,\n'LOG:  statement: x\n'", "\n")
			return err
		}},
		"ping": {0, 1, func(*testing.T) error { return pool.Ping(ctx) }},
		"the authorizer's": {0, 2, func(t *testing.T) error {
			t.Helper()
			_, keyErr := store.FindAPIKey(ctx, []byte("k"))
			require.ErrorIs(t, keyErr, promise.ErrNotFound)
			_, err := store.TokenActive(ctx, "nobody", uuid.New(), uuid.Nil, nil)
			return err
		}},
		"the sweep's": {0, 11, func(*testing.T) error {
			_, err := (&sweep.Sweeper{Store: store, Metrics: noMetrics{}, Log: slog.New(slog.DiscardHandler), Retention: time.Hour}).Once(ctx)
			return err
		}},
	} {
		t.Run(name, func(t *testing.T) {
			own, timed := sent(t, func() { require.NoError(t, c.do(t)) })
			require.Equal(t, [2]int{c.own, c.timed}, [2]int{own, timed}, "statements of the call, and timed ones")
		})
	}
}

// With round trips of 5 ms, no operation takes less than 5 ms for each of its statements.
func TestTrip(t *testing.T) {
	t.Parallel()
	const roundTrip = 5
	got := measured[report](t, "--trip", "5ms", "--promises", "3000", "--calls", "50", "--clients", "2")
	require.Len(t, got.Rows, 7)
	for _, r := range got.Rows {
		t.Run(r.Operation, func(t *testing.T) {
			require.GreaterOrEqual(t, r.P50Ms, roundTrip*math.Floor(r.Statements))
		})
	}
}

func TestGrowth(t *testing.T) {
	t.Parallel()
	got := measured[report](t, "--growth", "--promises", "10000", "--clients", "2")
	require.NotEqual(t, "512MB", got.Machine.Buffers, "the value without --growth")
	require.Len(t, got.Rows, growthOperations)
	for _, r := range got.Rows {
		t.Run(r.Operation, func(t *testing.T) {
			require.Equal(t, 10_000, r.Promises)
			require.Positive(t, r.OpsPerSecond)
			require.InDelta(t, 1, r.RatioToFirst, 0)
		})
	}
}

func TestLoad(t *testing.T) {
	t.Parallel()
	got := measured[loadReport](t, "--load", "1s")
	for name, p := range map[string]phase{"steady": got.Steady, "overload": got.Overload} {
		t.Run(name, func(t *testing.T) {
			require.Positive(t, p.Done)
			require.Empty(t, p.Errors)
			require.NotEmpty(t, p.Samples)
		})
	}
	t.Run("no work is half-done", func(t *testing.T) {
		require.Equal(t, map[string]int{
			"numbers without an event": 0, "promises without their creation's event": 0, "promises without their key": 0,
		}, got.HalfDone)
	})
	for _, name := range []string{"create-promise", "resolve"} {
		t.Run("goroutines of "+name, func(t *testing.T) {
			require.Positive(t, got.GoroutinesBefore[name])
			const closing = 10 // a connection whose call was cancelled takes some seconds to close
			require.LessOrEqual(t, got.GoroutinesAfter[name], got.GoroutinesBefore[name]+closing)
		})
	}
}

// Every settlement reaches its waiter, by a delivery and by a wait, and so does each delivery of a backlog.
func TestDeliveries(t *testing.T) {
	t.Parallel()
	got := measured[deliveryReport](t, "--deliveries", "--rate", "20", "--time", "2s", "--backlog", "60")
	for name, w := range map[string]wakeups{"delivered": got.Delivered, "polled": got.Polled} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, 40, w.Count)
			require.True(t, 0 < w.P50Ms && w.P50Ms <= w.P95Ms && w.P95Ms <= w.P99Ms)
			require.Positive(t, w.CPU.Postgres)
		})
	}
	t.Run("the functions that wake the waiters", func(t *testing.T) {
		require.Positive(t, got.Delivered.CPU.Relay+got.Delivered.CPU.Send)
		require.Positive(t, got.Polled.CPU.Wait)
	})
	t.Run("the backlog", func(t *testing.T) {
		require.Equal(t, 60, got.Backlog.Deliveries)
		require.Positive(t, got.Backlog.PerSecond)
	})
}

// Every webhook settles its promise, or is refused, beside settlements by key.
func TestWebhooks(t *testing.T) {
	t.Parallel()
	got := measured[webhookReport](t, "--webhooks", "--calls", "90", "--clients", "2")
	var operations []string
	for _, r := range got.Rows {
		operations = append(operations, r.Operation)
		t.Run(r.Operation, func(t *testing.T) {
			require.GreaterOrEqual(t, r.Calls, 30)
			require.True(t, 0 < r.P50Ms && r.P50Ms <= r.P95Ms && r.P95Ms <= r.P99Ms)
			require.Positive(t, r.FunctionCPUMs)
		})
	}
	require.Equal(t, []string{"HTTP: settle by key", "HTTP: webhook", "HTTP: webhook, wrong signature", "HTTP: webhook, invented source"}, operations)
}

// A hostile tenant makes no call of an honest tenant fail or be refused, and the honest tenant's event logs are complete.
func TestNeighbour(t *testing.T) {
	// The test does not run in parallel: with the package's other benchmarks the processors would be the limit.
	got := measured[neighbourReport](t, "--neighbour", "18s")
	t.Run("no call of the honest tenant fails", func(t *testing.T) {
		require.Empty(t, got.Failures)
	})
	t.Run("each operation runs alone and beside the hostile tenant", func(t *testing.T) {
		var operations []string
		for _, b := range got.Honest {
			require.Positive(t, b.Calls[0], b.Operation)
			require.Positive(t, b.Calls[1], b.Operation)
			operations = append(operations, b.Operation)
		}
		require.Equal(t, []string{
			"create", "deadline to event", "events", "get", "list", "settle", "settle to waiter", "wait", "wait for events",
		}, operations)
	})
	for attack, statuses := range map[string][]int{
		"large deadlines":      {201},
		"waits":                {200},
		"waits for events":     {200},
		"lists":                {200},
		"early settlements":    {202, 429},
		"made-up API keys":     {403},
		"garbage on callbacks": {403},
		"slow bodies":          {0},
	} {
		t.Run("the hostile tenant's "+attack, func(t *testing.T) {
			for _, status := range statuses {
				require.Positive(t, got.Hostile[attack][status], got.Hostile[attack])
			}
		})
	}
}

// The CPU time of a process includes each process that it has started once.
func TestCPUTime(t *testing.T) {
	t.Parallel()
	const busy = `i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done; echo $$; read end`
	cmd := exec.Command("sh", "-c", `exec 3<&0; sh -c '`+busy+`' <&3 & wait`)
	stdin, err := cmd.StdinPipe()
	require.NoError(t, err)
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	defer func() {
		require.NoError(t, stdin.Close())
		require.NoError(t, cmd.Wait())
	}()
	var pid int32
	_, err = fmt.Fscan(stdout, &pid)
	require.NoError(t, err)
	used := func(pid int, alone bool) time.Duration {
		d, err := cpuTime(t.Context(), &process.Process{Pid: int32(pid)}, alone)
		require.NoError(t, err)
		return d
	}
	parent := cmd.Process.Pid // both processes wait, so their CPU time hardly grows
	least := used(parent, true) + used(int(pid), true)
	all := used(parent, false)
	require.Positive(t, used(int(pid), true))
	require.GreaterOrEqual(t, all, least)
	require.LessOrEqual(t, all, used(parent, true)+used(int(pid), true))
}

// The stack of a goroutine names the goroutine and its creator. Only the first counts.
func TestGoroutinesAreCountedOnce(t *testing.T) {
	t.Parallel()
	const dump = `SIGQUIT: quit
PC=0x4890e1 m=0 sigcode=0

goroutine 0 gp=0x1a5c2e0 m=0 mp=0x1a5d180 [idle]:
runtime.futex(0x1a5d2c0, 0x80, 0x0, 0x0, 0x0, 0x0)

goroutine 1 gp=0xc0000021c0 m=nil [IO wait, 2 minutes]:
main.main()

goroutine 18 gp=0xc000084380 m=nil [GC worker (idle)]:
created by runtime.gcBgMarkStartWorkers in goroutine 1
	/src/runtime/mgc.go:1279 +0x105
`
	require.Len(t, goroutine.FindAllString(dump, -1), 2)
}
