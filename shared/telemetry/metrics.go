package telemetry

import (
	"encoding/json"
	"io"
	"math"
	"sync"
	"time"
)

// Namespace is the CloudWatch namespace of the metrics.
const Namespace = "Promises"

// Metrics is a writer of metrics in CloudWatch's embedded metric format. CloudWatch
// Logs turns each line into a metric with the single dimension Function. The log
// level does not affect it. It is safe for concurrent use.
type Metrics struct {
	function string

	mu sync.Mutex
	w  io.Writer
}

// NewMetrics returns a Metrics that writes one JSON object per line to w, each with
// one Write. function is the function's name (AWS_LAMBDA_FUNCTION_NAME). It must not
// be empty, because CloudWatch drops a metric with an empty dimension.
func NewMetrics(w io.Writer, function string) *Metrics {
	return &Metrics{function: function, w: w}
}

// Count adds n to the count of name. It writes nothing if n is 0.
func (m *Metrics) Count(name string, n int64) {
	if n != 0 {
		m.write(name, n, "Count")
	}
}

// Gauge records the current value of name. unit is one of CloudWatch's units, such as
// Seconds or Bytes. Gauge writes nothing if the value is not finite.
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
		panic(err) // impossible for strings and finite numbers
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.w.Write(append(line, '\n')) //nolint:errcheck // the error cannot be reported
}
