package telemetry_test

import (
	"bytes"
	"encoding/json"
	"math"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/telemetry"
)

// A line has the members that the specification of the embedded metric format requires, in its spelling, and no others.
func TestMetricsAreEmbeddedMetricFormat(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		write func(*telemetry.Metrics)
		want  string
	}{
		"count": {func(m *telemetry.Metrics) { m.Count("PromisesExpired", 1<<53+1) },
			`{"_aws":{"Timestamp":0,"CloudWatchMetrics":[{"Namespace":"Promises","Dimensions":[["Function"]],
			"Metrics":[{"Name":"PromisesExpired","Unit":"Count"}]}]},"Function":"expire-promises","PromisesExpired":9007199254740993}`},
		"gauge": {func(m *telemetry.Metrics) { m.Gauge("OldestOverdueSeconds", 1.5, "Seconds") },
			`{"_aws":{"Timestamp":0,"CloudWatchMetrics":[{"Namespace":"Promises","Dimensions":[["Function"]],
			"Metrics":[{"Name":"OldestOverdueSeconds","Unit":"Seconds"}]}]},"Function":"expire-promises","OldestOverdueSeconds":1.5}`},
	} {
		t.Run(name, func(t *testing.T) {
			var b bytes.Buffer
			before := time.Now().UnixMilli()
			c.write(telemetry.NewMetrics(&b, "expire-promises"))
			line, ok := strings.CutSuffix(b.String(), "\n")
			require.True(t, ok)
			require.NotContains(t, line, "\n")
			require.Equal(t, decode(t, c.want, nil), decode(t, line, func(timestamp int64) {
				require.GreaterOrEqual(t, timestamp, before)
				require.LessOrEqual(t, timestamp, time.Now().UnixMilli())
			}))
		})
	}
}

// decode parses a line, keeps its numbers as text, and sets its time to 0.
func decode(t *testing.T, line string, check func(timestamp int64)) map[string]any {
	t.Helper()
	d := json.NewDecoder(strings.NewReader(line))
	d.UseNumber()
	var object map[string]any
	require.NoError(t, d.Decode(&object), line)
	if check != nil {
		timestamp, err := object["_aws"].(map[string]any)["Timestamp"].(json.Number).Int64()
		require.NoError(t, err)
		check(timestamp)
		object["_aws"].(map[string]any)["Timestamp"] = json.Number("0")
	}
	return object
}

func TestMetricsThatSayNothingAreNotWritten(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		write   func(*telemetry.Metrics)
		written string
	}{
		"a count of 0":      {func(m *telemetry.Metrics) { m.Count("A", 0) }, ""},
		"not a number":      {func(m *telemetry.Metrics) { m.Gauge("B", math.NaN(), "Seconds") }, ""},
		"an infinite gauge": {func(m *telemetry.Metrics) { m.Gauge("C", math.Inf(1), "Seconds") }, ""},
		"a gauge of 0":      {func(m *telemetry.Metrics) { m.Gauge("D", 0, "Seconds") }, `"D":0`},
	} {
		t.Run(name, func(t *testing.T) {
			var b bytes.Buffer
			c.write(telemetry.NewMetrics(&b, "f"))
			if c.written == "" {
				require.Empty(t, b.String())
			} else {
				require.Contains(t, b.String(), c.written)
			}
		})
	}
}

// wholeLines is a writer that fails the test if a Write is not one line.
type wholeLines struct {
	t *testing.T
	n int
}

func (w *wholeLines) Write(p []byte) (int, error) {
	w.n++
	if !json.Valid(p) || bytes.Count(p, []byte("\n")) != 1 {
		w.t.Errorf("not one line: %q", p)
	}
	return len(p), nil
}

func TestMetricsFromManyGoroutines(t *testing.T) {
	t.Parallel()
	w := &wholeLines{t: t}
	m := telemetry.NewMetrics(w, "f")
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 100 {
				m.Count("A", 1)
			}
		})
	}
	wg.Wait()
	require.Equal(t, 800, w.n)
}
