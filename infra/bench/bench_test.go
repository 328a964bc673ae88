package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/shirou/gopsutil/v4/process"
	"github.com/stretchr/testify/require"
)

var bench string // the command

func TestMain(m *testing.M) { os.Exit(built(m)) }

func built(m *testing.M) (code int) {
	dir, err := os.MkdirTemp("", "bench-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir) //nolint:errcheck // it is the temporary folder's then
	bench = filepath.Join(dir, "bench")
	if out, err := exec.Command("go", "build", "-o", bench, ".").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "%s%v\n", out, err)
		return 1
	}
	return m.Run()
}

// measured runs the command, for its JSON.
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

// A small run measures every operation, whole, and relates it to the limit.
func TestTable(t *testing.T) {
	t.Parallel()
	svg := filepath.Join(t.TempDir(), "ratios.svg")
	got := measured[report](t, "--promises", "6000", "--calls", "120", "--clients", "1,2", "--svg", svg)
	statements := map[string]float64{}
	for _, r := range got.Rows {
		calls := 120
		if strings.HasPrefix(r.Operation, "HTTP") || strings.HasPrefix(r.Operation, "Invoke") {
			calls = 40
		}
		require.Equal(t, calls, r.Calls, r.Operation)
		require.Positive(t, r.OpsPerSecond, r.Operation)
		require.Positive(t, r.RatioToLimit, r.Operation)
		require.True(t, 0 < r.P50Ms && r.P50Ms <= r.P95Ms && r.P95Ms <= r.P99Ms, r.Operation)
		statements[r.Operation] = r.Statements
	}
	want := map[string]float64{
		"limit": 1, "settle by id": 1, "settle by key": 1, "transaction of seven": 7, "create": 1, "create + settle": 2, "get": 1,
		"HTTP: nothing": 0, "HTTP: settle by id": 1, "HTTP: create + settle": 2, "Invoke: settle by id": 1,
	}
	for operation, n := range want {
		require.InDelta(t, n, statements[operation], 0.2, operation) // over HTTP a credential is looked up now and then
	}
	require.Len(t, statements, len(want))
	require.Len(t, got.Rows, 2*len(statements))
	require.FileExists(t, svg)
}

// With a round trip that takes 5 ms, nothing takes less.
func TestTrip(t *testing.T) {
	t.Parallel()
	const trip = 5
	got := measured[report](t, "--trip", "5ms", "--promises", "3000", "--calls", "50", "--clients", "2")
	require.Len(t, got.Rows, 7)
	for _, r := range got.Rows {
		require.GreaterOrEqual(t, r.P50Ms, trip*math.Floor(r.Statements), r.Operation)
	}
}

func TestGrowth(t *testing.T) {
	t.Parallel()
	got := measured[report](t, "--growth", "--promises", "10000", "--clients", "2")
	require.NotEqual(t, "512MB", got.Machine.Buffers, "what the others have")
	require.Len(t, got.Rows, settlingInGrowth)
	for _, r := range got.Rows {
		require.Equal(t, 10_000, r.Promises)
		require.Positive(t, r.OpsPerSecond, r.Operation)
		require.InDelta(t, 1, r.RatioToFirst, 0, r.Operation)
	}
}

func TestLoad(t *testing.T) {
	t.Parallel()
	got := measured[loadReport](t, "--load", "1s")
	for _, p := range []phase{got.Steady, got.Overload} {
		require.Positive(t, p.Done)
		require.Empty(t, p.Errors)
		require.NotEmpty(t, p.Samples)
	}
	require.Equal(t, map[string]int{
		"numbers without an event": 0, "promises without their creation's event": 0, "promises without their key": 0,
	}, got.HalfDone)
	for _, name := range []string{"create-promise", "resolve"} {
		require.Positive(t, got.GoroutinesBefore[name], name)
		require.LessOrEqual(t, got.GoroutinesAfter[name], got.GoroutinesBefore[name]+2, name)
	}
}

// CPU time is that of a process and of those that it has started, once each.
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
	of, err := cpuTimeOf(t.Context(), &process.Process{Pid: pid})
	require.NoError(t, err)
	require.Positive(t, of)
	all, err := cpuTime(t.Context(), &process.Process{Pid: int32(cmd.Process.Pid)}, false)
	require.NoError(t, err)
	require.GreaterOrEqual(t, all, of)
	require.Less(t, all, 2*of)
	alone, err := cpuTime(t.Context(), &process.Process{Pid: int32(cmd.Process.Pid)}, true)
	require.NoError(t, err)
	require.Less(t, alone, of)
}

// As a process prints them at its end: a stack names its goroutine, and the one that made it.
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
