package telemetry

import (
	"encoding/json"
	"io"
	"math"
	"sync"
	"time"
)

// Namespace is where CloudWatch keeps the metrics.
const Namespace = "Promises"

// Metrics writes CloudWatch's embedded metric format: CloudWatch Logs makes a
// metric of each line that the function prints, with the one dimension
// Function. No log level silences it. It is safe for concurrent use.
type Metrics struct {
	function string

	mu sync.Mutex
	w  io.Writer
}

// NewMetrics writes one JSON object a line to w, each with one Write. function
// names the function (AWS_LAMBDA_FUNCTION_NAME) and must not be empty:
// CloudWatch drops what has an empty dimension.
func NewMetrics(w io.Writer, function string) *Metrics {
	return &Metrics{function: function, w: w}
}

// Count says that name has happened n more times. Nothing is written for 0.
func (m *Metrics) Count(name string, n int64) {
	if n != 0 {
		m.write(name, n, "Count")
	}
}

// Gauge says where name stands now. unit is one of CloudWatch's, such as Seconds
// or Bytes. Nothing is written for what is no finite number.
func (m *Metrics) Gauge(name string, value float64, unit string) {
	if !math.IsNaN(value) && !math.IsInf(value, 0) {
		m.write(name, value, unit)
	}
}

type directive struct {
	Namespace  string
	Dimensions [][]string
	Metrics    []definition
}

type definition struct{ Name, Unit string }

func (m *Metrics) write(name string, value any, unit string) {
	line, err := json.Marshal(map[string]any{
		"_aws": struct {
			Timestamp         int64
			CloudWatchMetrics []directive
		}{
			time.Now().UnixMilli(),
			[]directive{{Namespace, [][]string{{"Function"}}, []definition{{name, unit}}}},
		},
		"Function": m.function,
		name:       value,
	})
	if err != nil {
		panic(err) // strings and finite numbers
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.w.Write(append(line, '\n')) //nolint:errcheck // nobody is left to tell
}
