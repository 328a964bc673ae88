package telemetry

import (
	"sync"
	"time"
)

// A Tally counts events that may come in floods. It writes the sum of each name to a
// Metrics: the first at once, and each later one with the first Count after the
// interval. The rest is lost if the process ends. It is safe for concurrent use.
type Tally struct {
	metrics  *Metrics
	interval time.Duration
	now      func() time.Time

	mu     sync.Mutex
	counts map[string]tallied
}

// A tallied is the sum of a name since its last line.
type tallied struct {
	sum     int64
	written time.Time
}

// NewTally returns a Tally that writes to m.
func NewTally(m *Metrics, interval time.Duration) *Tally {
	return &Tally{metrics: m, interval: interval, now: time.Now, counts: map[string]tallied{}}
}

// Count adds n to the count of name. It writes the sums of all names that are due.
func (t *Tally) Count(name string, n int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	c := t.counts[name]
	c.sum += n
	t.counts[name] = c
	now := t.now().Round(0) // Lambda freezes processes, and the monotonic clock may stand still meanwhile
	for name, c := range t.counts {
		if age := now.Sub(c.written); c.sum != 0 && (age >= t.interval || age < 0) {
			t.metrics.Count(name, c.sum)
			t.counts[name] = tallied{written: now}
		}
	}
}
