package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// A small run measures every operation, whole, and relates it to the limit.
func TestTable(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	bench, svg := filepath.Join(dir, "bench"), filepath.Join(dir, "ratios.svg")
	out, err := exec.Command("go", "build", "-o", bench, ".").CombinedOutput()
	require.NoError(t, err, "%s", out)
	cmd := exec.Command(bench, "--promises", "6000", "--calls", "100", "--clients", "1,2", "--json", "--svg", svg)
	cmd.Stderr = os.Stderr
	out, err = cmd.Output()
	require.NoError(t, err)
	var got report
	require.NoError(t, json.Unmarshal(out, &got))
	statements := map[string]float64{}
	for _, r := range got.Rows {
		require.Equal(t, 100, r.Calls, r.Operation)
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
