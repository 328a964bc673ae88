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

// The members that the specification of the embedded metric format asks for, in its spelling, and no others.
func TestMetricsAreEmbeddedMetricFormat(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	m := telemetry.NewMetrics(&b, "expire-promises")
	before := time.Now().UnixMilli()
	m.Count("PromisesExpired", 1<<53+1)
	m.Gauge("OldestOverdueSeconds", 1.5, "Seconds")
	lines := strings.Split(strings.TrimSuffix(b.String(), "\n"), "\n")
	require.Len(t, lines, 2)
	for i, want := range []string{
		`{"_aws":{"Timestamp":0,"CloudWatchMetrics":[{"Namespace":"Promises","Dimensions":[["Function"]],
			"Metrics":[{"Name":"PromisesExpired","Unit":"Count"}]}]},"Function":"expire-promises","PromisesExpired":9007199254740993}`,
		`{"_aws":{"Timestamp":0,"CloudWatchMetrics":[{"Namespace":"Promises","Dimensions":[["Function"]],
			"Metrics":[{"Name":"OldestOverdueSeconds","Unit":"Seconds"}]}]},"Function":"expire-promises","OldestOverdueSeconds":1.5}`,
	} {
		require.Equal(t, decode(t, want, nil), decode(t, lines[i], func(timestamp int64) {
			require.GreaterOrEqual(t, timestamp, before)
			require.LessOrEqual(t, timestamp, time.Now().UnixMilli())
		}))
	}
}

// decode reads a line with its numbers as they are written, and its time as 0.
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
	var b bytes.Buffer
	m := telemetry.NewMetrics(&b, "f")
	m.Count("A", 0)
	m.Gauge("B", math.NaN(), "Seconds")
	m.Gauge("C", math.Inf(1), "Seconds")
	require.Empty(t, b.String())
	m.Gauge("D", 0, "Seconds")
	require.Contains(t, b.String(), `"D":0`)
}

// wholeLines fails on a Write that is not one line.
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
