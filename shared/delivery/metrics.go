package delivery

import (
	"sync/atomic"
)

// Metrics receives counts and measurements. It must be safe for concurrent use.
type Metrics interface {
	Count(name string, n int64)
	Gauge(name string, value float64, unit string)
}

// The names of the metrics, which a run writes once a minute and at its end. Each count
// covers the time since the previous one.
const (
	MetricRelayWorking   = "RelayWorking"   // 1: a relay is at work
	MetricDelivered      = "Delivered"      // attempts that succeeded
	MetricFailed         = "Failed"         // attempts that failed, with those after which the delivery is dead
	MetricDeadDeliveries = "DeadDeliveries" // deliveries that ended as dead
	MetricRelayErrors    = "RelayErrors"    // statements, invokes and decryptions that failed

	// MetricOldestDue is the time, in seconds, since the oldest due delivery became due; 0
	// if none is. It does not count a delivery that waits for its next attempt, that a
	// lease holds, or whose destination is disabled or tenant suspended.
	MetricOldestDue = "OldestDueSeconds"
)

// counts are counts of results and errors.
type counts struct{ delivered, failed, dead, errors atomic.Int64 }

// report writes the metrics.
func (c *relaying) report() {
	now := RelayReport{c.total.delivered.Load(), c.total.failed.Load(), c.total.dead.Load(), c.total.errors.Load()}
	c.Metrics.Count(MetricRelayWorking, 1)
	c.Metrics.Count(MetricDelivered, now.Delivered-c.reported.Delivered)
	c.Metrics.Count(MetricFailed, now.Failed-c.reported.Failed)
	c.Metrics.Count(MetricDeadDeliveries, now.Dead-c.reported.Dead)
	c.Metrics.Count(MetricRelayErrors, now.Errors-c.reported.Errors)
	c.reported = now
}
