package main

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// An operation is a call that is measured. call may run concurrently; n is the number of the call, or of its promise.
type operation struct {
	name string
	db   *dataset
	call func(ctx context.Context, n int) error

	// settles is set if each call needs its own pending promise.
	settles bool

	meter meter
}

const (
	turns  = 8
	warmUp = 8 // uncounted calls of each client before each turn, and once more at the start
)

// uncountedCalls returns the number of calls of an operation that are not measured: warm-up, and counting statements.
func uncountedCalls(clients int) int { return (turns+1)*warmUp*clients + statementCalls }

// inTurns measures each operation with that many clients and calls. The operations take turns, so that their ratios stay
// correct when the machine's speed drifts. Each turn begins with warm-up calls, which refill the processors' caches and ping
// the idle connections. The warm-up is short beside a turn.
func inTurns(ctx context.Context, operations []operation, clients, calls int, screen *progress) ([]row, error) {
	totals := make([]total, len(operations))
	n := (calls + turns - 1) / turns
	for turn := range turns + 1 {
		for i := range operations {
			i = (i + turn) % len(operations)
			o := operations[i]
			screen.say("%d promises, %d in a workflow; %d clients, turn %d of %d: %s",
				o.db.promises, o.db.perWorkflow, clients, turn, turns, o.name)
			if _, err := oneTurn(ctx, o, warmUp*clients, clients); err != nil {
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

// computeRatios sets two ratios of each row: to the limit with the same database and clients, and to the same operation with
// the same clients in the first database.
func computeRatios(rows []row) {
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

// A total is the time and usage of the calls of one or more turns.
type total struct {
	latencies []time.Duration
	took      time.Duration
	usage     usage
}

func oneTurn(ctx context.Context, o operation, n, clients int) (_ total, err error) {
	first := 0
	if o.settles {
		if first, err = o.db.reserve(n); err != nil {
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
	t.usage = t.usage.plus(u.usage)
}

func (t *total) row() row {
	slices.Sort(t.latencies)
	n := float64(len(t.latencies))
	return row{
		Calls: len(t.latencies), OpsPerSecond: n / t.took.Seconds(),
		P50Ms: percentile(t.latencies, 50), P95Ms: percentile(t.latencies, 95), P99Ms: percentile(t.latencies, 99),
		Statements: float64(t.usage.statements) / n, WALBytes: float64(t.usage.wal) / n,
		FunctionCPUMs: t.usage.function.Seconds() * 1000 / n, PostgresCPUMs: t.usage.postgres.Seconds() * 1000 / n,
	}
}

// percentile returns a percentile in milliseconds, or 0 if sorted is empty.
func percentile(sorted []time.Duration, percent int) float64 {
	if len(sorted) == 0 {
		return 0
	}
	return float64(sorted[min(len(sorted)*percent/100, len(sorted)-1)]) / float64(time.Millisecond)
}
