package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"
)

// A deliveryReport compares deliveries with waits.
type deliveryReport struct {
	Machine   machine  `json:"machine"`
	Rate      int      `json:"settlementsPerSecond"`
	Delivered wakeups  `json:"delivered"`
	Polled    wakeups  `json:"polled"`
	Backlog   backlog  `json:"backlog"`
	Idle      cpuTimes `json:"idleCpuSecondsPerMinute"`
	Repeated  int      `json:"repeated"` // messages that came more than once
}

// wakeups are the times from the answer of a settlement to its waiter.
type wakeups struct {
	Count int      `json:"count"`
	P50Ms float64  `json:"p50Ms"`
	P95Ms float64  `json:"p95Ms"`
	P99Ms float64  `json:"p99Ms"`
	CPU   cpuTimes `json:"cpuSecondsPer1000"` // Postgres's includes the settlements'

	times []time.Duration
	cpu   cpuTimes
}

func (w *wakeups) add(more wakeups) {
	w.times = append(w.times, more.times...)
	w.cpu = w.cpu.plus(more.cpu)
}

func (w *wakeups) finish() {
	slices.Sort(w.times)
	w.Count, w.CPU = len(w.times), w.cpu.perThousand(len(w.times))
	w.P50Ms, w.P95Ms, w.P99Ms = percentile(w.times, 50), percentile(w.times, 95), percentile(w.times, 99)
}

// A backlog is many deliveries that were due at once.
type backlog struct {
	Deliveries int      `json:"deliveries"`
	Seconds    float64  `json:"seconds"`
	PerSecond  float64  `json:"perSecond"`
	CPU        cpuTimes `json:"cpuSecondsPer1000"`
}

// cpuTimes are CPU seconds of functions and of Postgres.
type cpuTimes struct {
	Relay    float64 `json:"relayDeliveries"`
	Send     float64 `json:"sendDeliveries"`
	Wait     float64 `json:"waitPromise"`
	Postgres float64 `json:"postgres"`
}

func (c cpuTimes) plus(d cpuTimes) cpuTimes {
	return cpuTimes{c.Relay + d.Relay, c.Send + d.Send, c.Wait + d.Wait, c.Postgres + d.Postgres}
}

func (c cpuTimes) scaled(by float64) cpuTimes {
	return cpuTimes{c.Relay * by, c.Send * by, c.Wait * by, c.Postgres * by}
}

func (c cpuTimes) minus(d cpuTimes) cpuTimes { return c.plus(d.scaled(-1)) }

func (c cpuTimes) perThousand(n int) cpuTimes { return c.scaled(1000 / float64(n)) }

func (r deliveryReport) table(w io.Writer) error {
	fmt.Fprintf(w, "%s\n\n", r.Machine)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(t, "%d settlements a second\tcount\tp50 ms\tp95 ms\tp99 ms\tCPU s of 1,000: relay\tsend\twait\tPostgres\t\n", r.Rate)
	for i, row := range []wakeups{r.Delivered, r.Polled} {
		name := []string{"settle to delivery", "settle to waiting call"}[i]
		fmt.Fprintf(t, "%s\t%d\t%.1f\t%.1f\t%.1f\t%.2f\t%.2f\t%.2f\t%.2f\t\n", name, row.Count, row.P50Ms, row.P95Ms, row.P99Ms,
			row.CPU.Relay, row.CPU.Send, row.CPU.Wait, row.CPU.Postgres)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	b := r.Backlog
	_, err := fmt.Fprintf(w, `
Backlog: %d deliveries in %.1f s, %.0f a second. CPU seconds of 1,000: relay %.2f, send %.2f, Postgres %.2f.
At rest, CPU seconds a minute: relay %.2f, Postgres %.2f.
Messages that came more than once: %d
`, b.Deliveries, b.Seconds, b.PerSecond, b.CPU.Relay, b.CPU.Send, b.CPU.Postgres, r.Idle.Relay, r.Idle.Postgres, r.Repeated)
	return err
}

// waiters are calls of wait-promise.
type waiters struct {
	calls errgroup.Group
	mu    sync.Mutex
	woken map[uuid.UUID]time.Time
}

func newWaiters() *waiters { return &waiters{woken: map[uuid.UUID]time.Time{}} }

// start starts a call that waits for the promise.
func (w *waiters) start(ctx context.Context, client tenantClient, id uuid.UUID) {
	w.calls.Go(func() error {
		status, text, err := client.call(ctx, http.MethodGet, "/promises/id:"+id.String()+"/wait?waitSeconds=20", "")
		now := time.Now()
		if err != nil {
			return err
		}
		var p struct{ State string }
		if json.Unmarshal(text, &p) != nil || status != http.StatusOK || p.State != "resolved" {
			return fmt.Errorf("wait answered %d %s", status, text)
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		w.woken[id] = now
		return nil
	})
}

// await waits for the calls, and returns the times of their answers.
func (w *waiters) await() (map[uuid.UUID]time.Time, error) {
	err := w.calls.Wait()
	return w.woken, err
}
