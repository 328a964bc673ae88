package main

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// operation is what is measured: one call of it, for the n-th promise of its database. It is called by many at once.
type operation struct {
	name string
	db   *loaded
	call func(ctx context.Context, n int) error

	// settles says that each call wants a promise that nobody has settled.
	settles bool

	// meter reads what has been spent so far.
	meter meter
}

const (
	turns     = 8
	uncounted = 8 // calls of each client, before each turn, and as many before the first
)

// notCounted is how often an operation is called without being counted, there or to count its statements.
func notCounted(clients int) int { return (turns+1)*uncounted*clients + statementCalls }

// inTurns has so many clients call each operation so many times, in turns, so that the ratios hold when the machine's speed
// drifts. Each turn begins with some calls that are not counted: what the other operations have driven from the processors'
// caches comes back, and connections that have idled are looked at. The turns are long beside that.
func inTurns(ctx context.Context, operations []operation, clients, calls int, screen *progress) ([]row, error) {
	totals := make([]total, len(operations))
	n := (calls + turns - 1) / turns
	for turn := range turns + 1 {
		for i := range operations {
			i = (i + turn) % len(operations)
			o := operations[i]
			screen.say("%d promises, %d in a workflow; %d clients, turn %d of %d: %s",
				o.db.promises, o.db.perWorkflow, clients, turn, turns, o.name)
			if _, err := oneTurn(ctx, o, uncounted*clients, clients); err != nil {
				return nil, fmt.Errorf("%s: %w", o.name, err)
			}
			if turn == 0 {
				continue
			}
			t, err := oneTurn(ctx, o, n, clients)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", o.name, err)
			}
			totals[i].add(t)
		}
	}
	rows := make([]row, len(operations))
	for i, o := range operations {
		rows[i] = totals[i].row()
		rows[i].Operation, rows[i].Clients, rows[i].Promises, rows[i].PerWorkflow = o.name, clients, o.db.promises, o.db.perWorkflow
	}
	return rows, nil
}

// relate fills in the ratios: to the limit of the same database and as many clients, and to the same operation in the first
// database that there is.
func relate(rows []row) {
	for i := range rows {
		r := &rows[i]
		for _, other := range rows {
			if other.Clients != r.Clients {
				continue
			}
			if other.Operation == limit && other.database() == r.database() && r.RatioToLimit == 0 {
				r.RatioToLimit = r.OpsPerSecond / other.OpsPerSecond
			}
			if other.Operation == r.Operation && r.RatioToFirst == 0 {
				r.RatioToFirst = r.OpsPerSecond / other.OpsPerSecond
			}
		}
	}
}

// total is what some calls took.
type total struct {
	latencies []time.Duration
	took      time.Duration
	spent     spent
}

func oneTurn(ctx context.Context, o operation, n, clients int) (_ total, err error) {
	first := 0
	if o.settles {
		if first, err = o.db.take(n); err != nil {
			return total{}, err
		}
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	latencies := make([]time.Duration, n)
	var next atomic.Int64
	var wg sync.WaitGroup
	before, err := o.meter.read(ctx, false)
	if err != nil {
		return total{}, err
	}
	begun := time.Now()
	for range clients {
		wg.Go(func() {
			for ctx.Err() == nil {
				i := int(next.Add(1)) - 1
				if i >= n {
					return
				}
				called := time.Now()
				if err := o.call(ctx, first+i); err != nil {
					cancel(err)
					return
				}
				latencies[i] = time.Since(called)
			}
		})
	}
	wg.Wait()
	took := time.Since(begun)
	if ctx.Err() != nil {
		return total{}, context.Cause(ctx)
	}
	after, err := o.meter.read(ctx, true)
	return total{latencies, took, after.minus(before)}, err
}

func (t *total) add(u total) {
	t.latencies = append(t.latencies, u.latencies...)
	t.took += u.took
	t.spent = t.spent.plus(u.spent)
}

func (t *total) row() row {
	slices.Sort(t.latencies)
	n := float64(len(t.latencies))
	return row{
		Calls: len(t.latencies), OpsPerSecond: n / t.took.Seconds(),
		P50Ms: percentile(t.latencies, 50), P95Ms: percentile(t.latencies, 95), P99Ms: percentile(t.latencies, 99),
		Statements: float64(t.spent.statements) / n, WALBytes: float64(t.spent.wal) / n,
		FunctionCPUMs: t.spent.function.Seconds() * 1000 / n, PostgresCPUMs: t.spent.postgres.Seconds() * 1000 / n,
	}
}

// percentile is in milliseconds; sorted may be empty.
func percentile(sorted []time.Duration, percent int) float64 {
	if len(sorted) == 0 {
		return 0
	}
	return float64(sorted[min(len(sorted)*percent/100, len(sorted)-1)]) / float64(time.Millisecond)
}
