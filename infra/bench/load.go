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

// A loadTest drives the local runner over HTTP with pairs of calls. A pair creates a promise and settles it.
type loadTest struct {
	service *runner
	process *process.Process // the service's
	meter   meter
	screen  *progress
}

// measureLoad measures the maximum rate of pairs. It then requests 70 % of that rate for o.load, and three times the rate for
// o.load or one minute, whichever is shorter. Finally it checks for half-done work and for growth.
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
	l := &loadTest{service: service, screen: screen}
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
	report.Steady = l.runPhase(ctx, "70 %", 0.7*report.Maximum, o.load)
	report.Overload = l.runPhase(ctx, "overload", 3*report.Maximum, min(time.Minute, o.load))
	if report.GoroutinesAfter, err = l.goroutines(ctx); err != nil {
		return report, err
	}
	report.HalfDone, err = l.halfDone(ctx)
	return report, errors.Join(err, ctx.Err())
}

// errRefused is the error of a call that the service refused with 429 or 503.
var errRefused = errors.New("refused")

// pair returns the number of its calls that succeeded, and the time of both. If a call failed, the time is that of the failed
// call. If the settlement failed, the promise exists and is pending.
func (l *loadTest) pair(ctx context.Context) (done int, took time.Duration, err error) {
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
		return 1, time.Since(begun), fmt.Errorf("the settlement of a new promise returned the outcome %q, not settled", got.Outcome)
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

// maximum returns the pairs a second of eight callers: the median of nine turns, after one that is not counted.
func (l *loadTest) maximum(ctx context.Context, turn time.Duration) (float64, error) {
	const turns = 9
	var rates []float64
	for i := range turns + 1 {
		l.screen.say("maximum rate: turn %d of %d", i, turns)
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
		return 0, errors.New("no pair succeeded in most turns: the service refuses every call")
	}
	return rates[turns/2], nil
}

// runPhase requests pairs at the rate, without waiting for earlier pairs to end.
func (l *loadTest) runPhase(ctx context.Context, name string, rate float64, duration time.Duration) phase {
	const outstanding = 2000 // more than can be outstanding while the service answers or refuses
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

// sample counts the processes and connections, and reads the memory of the processes.
func (l *loadTest) sample(ctx context.Context, at time.Duration) sample {
	s := sample{Seconds: at.Seconds(), Functions: map[string]int{}, Memory: map[string]uint64{}}
	if memory, err := l.process.MemoryInfoWithContext(ctx); err == nil {
		s.Runner = memory.RSS
	}
	for _, f := range l.functions(ctx) {
		if memory, err := f.process.MemoryInfoWithContext(ctx); err == nil {
			s.Functions[f.name]++
			s.Memory[f.name] = max(s.Memory[f.name], memory.RSS)
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

// functions returns the processes that the runner has started.
func (l *loadTest) functions(ctx context.Context) (found []function) {
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

// goroutines returns, for each function, the most goroutines that one of its processes had. It makes each process print its
// goroutines, which ends the process.
func (l *loadTest) goroutines(ctx context.Context) (map[string]int, error) {
	most := map[string]int{}
	for _, f := range l.functions(ctx) {
		printed := l.service.output.Len()
		if err := f.process.SendSignalWithContext(ctx, syscall.SIGQUIT); err != nil {
			continue // the process has just ended
		}
		for alive := true; alive && ctx.Err() == nil; alive, _ = f.process.IsRunningWithContext(ctx) {
			time.Sleep(20 * time.Millisecond)
		}
		dump, err := l.dump(ctx, printed)
		if err != nil {
			return nil, fmt.Errorf("%s did not print its goroutines: %w", f.name, err)
		}
		most[f.name] = max(most[f.name], len(goroutine.FindAllIndex(dump, -1)))
	}
	return most, nil
}

// goroutine matches the first line of a goroutine's stack in the output of a process that ends. Goroutine 0 is the scheduler.
var goroutine = regexp.MustCompile(`goroutine [1-9]\d* .*\[`)

// registers matches the last line of that output on amd64 and arm64.
var registers = regexp.MustCompile(`(?m)^.*\b(?:gs|fault)\s+0x`)

// dump waits until a process has printed all of its goroutines, and returns the output after the first printed bytes.
func (l *loadTest) dump(ctx context.Context, printed int) ([]byte, error) {
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

// halfDone counts the rows that a half-done call would leave. Each count must be 0.
func (l *loadTest) halfDone(ctx context.Context) (map[string]int, error) {
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
		l.screen.say("count %s", what)
		var n int
		if err := l.meter.monitor.QueryRow(ctx, sql).Scan(&n); err != nil {
			return nil, err
		}
		found[what] = n
	}
	return found, nil
}

// A phase is the result of a load at one rate. Asked, Done and Refused count pairs.
type phase struct {
	Asked    float64        `json:"askedPerSecond"`
	Seconds  float64        `json:"seconds"`
	Done     int            `json:"done"`
	Calls    int            `json:"calls"` // successful ones: two for each pair that was done, one for a create whose settlement failed
	CallRate float64        `json:"callsPerSecond"`
	P50Ms    float64        `json:"p50Ms"`
	P99Ms    float64        `json:"p99Ms"`
	Refused  int            `json:"refused"`
	R50Ms    float64        `json:"refusedP50Ms"`
	R99Ms    float64        `json:"refusedP99Ms"`
	Unsent   int            `json:"unsent"` // not sent, because too many pairs were outstanding
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

// A sample holds the resources in use at a moment. Memory is in bytes; for a function it is that of its largest process.
type sample struct {
	Seconds     float64           `json:"seconds"`
	Connections int               `json:"connections"`
	Functions   map[string]int    `json:"processes"`
	Memory      map[string]uint64 `json:"memory"`
	Runner      uint64            `json:"runnerMemory"`
}
