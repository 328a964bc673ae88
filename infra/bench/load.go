package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"regexp"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/shirou/gopsutil/v4/process"
)

// load drives the local runner over HTTP. One call of it is a pair: a promise is created and settled.
type load struct {
	service *runner
	process *process.Process // the service's
	meter   meter
	screen  *progress
}

// measureLoad finds out how many pairs a second the runner does, asks 70 % of that of it for as long as o says, and then
// three times as many as it does, for as long, but a minute at most; and looks whether anything is left half-done, or has grown.
func measureLoad(ctx context.Context, c *cluster, o options, screen *progress) (_ loadReport, err error) {
	report := loadReport{Machine: thisMachine(ctx, c)}
	db, err := c.load(ctx, 100_000, 10, screen)
	if err != nil {
		return report, err
	}
	p, err := build(ctx, c.dir, screen)
	if err != nil {
		return report, err
	}
	service, err := p.startLocal(ctx, db.url)
	if err != nil {
		return report, err
	}
	defer func() { err = errors.Join(err, service.stop()) }()
	l := &load{service: service, screen: screen}
	if l.meter, err = newMeter(ctx, db); err != nil {
		return report, err
	}
	defer l.meter.monitor.Close()
	if l.process, err = process.NewProcess(int32(service.cmd.Process.Pid)); err != nil {
		return report, err
	}
	if report.Maximum, err = l.maximum(ctx, min(5*time.Second, o.load)); err != nil {
		return report, err
	}
	if report.GoroutinesBefore, err = l.goroutines(ctx); err != nil {
		return report, err
	}
	report.Steady = l.run(ctx, "70 %", 0.7*report.Maximum, o.load)
	report.Overload = l.run(ctx, "overload", 3*report.Maximum, min(time.Minute, o.load))
	if report.GoroutinesAfter, err = l.goroutines(ctx); err != nil {
		return report, err
	}
	report.HalfDone, err = l.halfDone(ctx)
	return report, errors.Join(err, ctx.Err())
}

// errRefused is the service saying that it has no room for a call now.
var errRefused = errors.New("refused")

// pair returns how many of its calls were done, and how long both took, or the one that was not done. A promise whose
// settlement was refused is there, and pending.
func (l *load) pair(ctx context.Context) (done int, took time.Duration, err error) {
	begun := time.Now()
	id, status, err := l.service.create(ctx)
	if err != nil || status != http.StatusCreated {
		return 0, time.Since(begun), failure(status, err)
	}
	created := time.Now()
	var got settled
	status, err = l.service.resolve(ctx, id, &got)
	if err != nil || status != http.StatusOK {
		return 1, time.Since(created), failure(status, err)
	}
	if got.Outcome != "settled" {
		return 1, time.Since(begun), fmt.Errorf("settled a new promise, and was told %q", got.Outcome)
	}
	return 2, time.Since(begun), nil
}

func failure(status int, err error) error {
	switch {
	case err != nil:
		return err
	case status == http.StatusTooManyRequests || status == http.StatusServiceUnavailable:
		return errRefused
	}
	return fmt.Errorf("answered %d", status)
}

// maximum is what eight callers get done, pairs a second, in the median of some turns, after one that is not counted.
func (l *load) maximum(ctx context.Context, turn time.Duration) (float64, error) {
	const turns = 9
	var rates []float64
	for i := range turns + 1 {
		l.screen.say("what it can do: turn %d of %d", i, turns)
		begun := time.Now()
		var done atomic.Int64
		errs := make([]error, 8)
		var callers sync.WaitGroup
		for i := range errs {
			callers.Go(func() {
				for errs[i] == nil && time.Since(begun) < turn {
					_, _, err := l.pair(ctx)
					switch {
					case err == nil:
						done.Add(1)
					case !errors.Is(err, errRefused):
						errs[i] = err
					}
				}
			})
		}
		callers.Wait()
		if err := errors.Join(errs...); err != nil {
			return 0, err
		}
		if i > 0 {
			rates = append(rates, float64(done.Load())/time.Since(begun).Seconds())
		}
	}
	slices.Sort(rates)
	if rates[turns/2] == 0 {
		return 0, errors.New("nothing was done in most turns")
	}
	return rates[turns/2], nil
}

// run asks for so many pairs a second, whether or not those before are done.
func (l *load) run(ctx context.Context, name string, rate float64, duration time.Duration) phase {
	const outstanding = 2000 // more than would wait for a service that answers or refuses
	p := phase{Asked: rate, Errors: map[string]int{}}
	var mu sync.Mutex
	var callers sync.WaitGroup
	var waiting atomic.Int64
	begun := time.Now()
	sampled := begun
	for n := 0; ctx.Err() == nil; n++ {
		due := begun.Add(time.Duration(float64(n) / rate * float64(time.Second)))
		if due.Sub(begun) > duration {
			break
		}
		if time.Since(sampled) > duration/60 {
			sampled = time.Now()
			l.screen.say("%s: %.0f pairs a second for %v, %d waiting", name, rate, time.Since(begun).Round(time.Second), waiting.Load())
			mu.Lock()
			p.Samples = append(p.Samples, l.sample(ctx, time.Since(begun)))
			mu.Unlock()
		}
		time.Sleep(time.Until(due))
		if waiting.Load() >= outstanding {
			mu.Lock()
			p.Unsent++
			mu.Unlock()
			continue
		}
		waiting.Add(1)
		callers.Go(func() {
			defer waiting.Add(-1)
			calls, took, err := l.pair(ctx)
			mu.Lock()
			defer mu.Unlock()
			p.Calls += calls
			switch {
			case err == nil:
				p.done = append(p.done, took)
			case errors.Is(err, errRefused):
				p.refused = append(p.refused, took)
			default:
				p.Errors[err.Error()]++
			}
		})
	}
	callers.Wait()
	p.Samples = append(p.Samples, l.sample(ctx, time.Since(begun)))
	p.finish(time.Since(begun))
	return p
}

// sample looks at the processes and the connections.
func (l *load) sample(ctx context.Context, at time.Duration) sample {
	s := sample{Seconds: at.Seconds(), Functions: map[string]int{}, Memory: map[string]uint64{}}
	if of, err := l.process.MemoryInfoWithContext(ctx); err == nil {
		s.Runner = of.RSS
	}
	for _, f := range l.functions(ctx) {
		if of, err := f.process.MemoryInfoWithContext(ctx); err == nil {
			s.Functions[f.name]++
			s.Memory[f.name] = max(s.Memory[f.name], of.RSS)
		}
	}
	l.meter.monitor.QueryRow(ctx, `SELECT COUNT(*) FROM pg_stat_activity
		WHERE datname = current_database() AND pid <> pg_backend_pid()`).Scan(&s.Connections) //nolint:errcheck // it stays 0
	return s
}

type function struct {
	name    string
	process *process.Process
}

// functions are the runner's, as processes.
func (l *load) functions(ctx context.Context) (found []function) {
	children, err := l.process.ChildrenWithContext(ctx)
	if err != nil {
		return nil // there are none
	}
	for _, child := range children {
		if path, err := child.ExeWithContext(ctx); err == nil {
			found = append(found, function{filepath.Base(filepath.Dir(path)), child})
		}
	}
	return found
}

// goroutines asks each function's process for its goroutines, which ends it, and returns the most that a process of each
// function had.
func (l *load) goroutines(ctx context.Context) (map[string]int, error) {
	most := map[string]int{}
	for _, f := range l.functions(ctx) {
		printed := l.service.output.Len()
		if err := f.process.SendSignalWithContext(ctx, syscall.SIGQUIT); err != nil {
			continue // it has just ended
		}
		for alive := true; alive && ctx.Err() == nil; alive, _ = f.process.IsRunningWithContext(ctx) {
			time.Sleep(20 * time.Millisecond)
		}
		dump, err := l.dump(ctx, printed)
		if err != nil {
			return nil, fmt.Errorf("%s has told nothing of its goroutines: %w", f.name, err)
		}
		most[f.name] = max(most[f.name], len(goroutine.FindAllIndex(dump, -1)))
	}
	return most, nil
}

// goroutine begins the stack of one, in what a process prints at its end; goroutine 0 is the scheduler.
var goroutine = regexp.MustCompile(`goroutine [1-9]\d* .*\[`)

// registers begins the last line of what such a process prints, on amd64 and arm64.
var registers = regexp.MustCompile(`(?m)^.*\b(?:gs|fault)\s+0x`)

// dump waits until a process has printed its goroutines to the end, after so much of the output.
func (l *load) dump(ctx context.Context, printed int) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		if text := l.service.output.After(printed); registers.Match(text) {
			return text, nil
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// halfDone counts what must not be.
func (l *load) halfDone(ctx context.Context) (map[string]int, error) {
	found := map[string]int{}
	for what, sql := range map[string]string{
		"numbers without an event": `SELECT COUNT(*) FROM workflow_execution w WHERE last_sequence_number <> (
			SELECT COUNT(*) FROM workflow_event e WHERE e.workflow_execution_id = w.id
			AND e.sequence_number BETWEEN 1 AND w.last_sequence_number)`,
		"promises without their creation's event": `SELECT COUNT(*) FROM promise p WHERE NOT EXISTS (
			SELECT FROM workflow_event e WHERE e.workflow_execution_id = p.workflow_execution_id
			AND e.sequence_number = p.created_by_sequence AND e.promise_id = p.id)`,
		"promises without their key": `SELECT COUNT(*) FROM promise p WHERE idempotency_key IS NOT NULL AND NOT EXISTS (
			SELECT FROM idempotency_key k WHERE k.promise_id = p.id)`,
	} {
		l.screen.say("look for %s", what)
		var n int
		if err := l.meter.monitor.QueryRow(ctx, sql).Scan(&n); err != nil {
			return nil, err
		}
		found[what] = n
	}
	return found, nil
}

// phase is what was asked for, in pairs, and what came of it.
type phase struct {
	Asked    float64        `json:"askedPerSecond"`
	Seconds  float64        `json:"seconds"`
	Done     int            `json:"done"`
	Calls    int            `json:"calls"` // that were done: two for each pair, and creations whose settlement was refused
	CallRate float64        `json:"callsPerSecond"`
	P50Ms    float64        `json:"p50Ms"`
	P99Ms    float64        `json:"p99Ms"`
	Refused  int            `json:"refused"`
	R50Ms    float64        `json:"refusedP50Ms"`
	R99Ms    float64        `json:"refusedP99Ms"`
	Unsent   int            `json:"unsent"` // too many were waiting
	Errors   map[string]int `json:"errors"`
	Samples  []sample       `json:"samples"`

	done, refused []time.Duration
}

func (p *phase) finish(took time.Duration) {
	p.Seconds, p.Done, p.Refused = took.Seconds(), len(p.done), len(p.refused)
	p.CallRate = float64(p.Calls) / p.Seconds
	slices.Sort(p.done)
	slices.Sort(p.refused)
	p.P50Ms, p.P99Ms = percentile(p.done, 50), percentile(p.done, 99)
	p.R50Ms, p.R99Ms = percentile(p.refused, 50), percentile(p.refused, 99)
}

// sample is how much there was of everything at a moment; memory in bytes, of a function the largest process.
type sample struct {
	Seconds     float64           `json:"seconds"`
	Connections int               `json:"connections"`
	Functions   map[string]int    `json:"processes"`
	Memory      map[string]uint64 `json:"memory"`
	Runner      uint64            `json:"runnerMemory"`
}
