package lambda

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/google/uuid"
)

// A Service invokes functions and manages their environments. It is safe for
// concurrent use.
type Service struct {
	opts      Options
	functions map[string]Function
	output    *lineWriter

	mu      sync.Mutex
	closed  bool
	ending  bool                      // Interrupt or Close was called
	live    map[*environment]struct{} // each counts towards MaxEnvironments
	idle    []*environment            // longest idle first
	waiting []*waiter                 // longest first
	events  int                       // accepted and not finished
	// lastProgress is the time at which an environment of the function was last
	// created, acquired or released.
	lastProgress map[string]time.Time

	stop    context.Context
	stopNow context.CancelFunc
	wg      sync.WaitGroup
}

// New returns a service of the given functions. It starts no process before the first
// invocation. The caller must Close it.
func New(functions []Function, o Options) *Service {
	if o.MaxEnvironments == 0 {
		o.MaxEnvironments = 60
	}
	if o.InitTimeout == 0 {
		o.InitTimeout = 10 * time.Second
	}
	if o.EventRetryDelays == nil {
		o.EventRetryDelays = []time.Duration{time.Second, 2 * time.Second}
	}
	s := &Service{
		opts:         o,
		functions:    make(map[string]Function, len(functions)),
		output:       &lineWriter{w: o.Output},
		live:         make(map[*environment]struct{}),
		lastProgress: make(map[string]time.Time),
	}
	s.stop, s.stopNow = context.WithCancel(context.Background())
	for _, f := range functions {
		s.functions[f.Name] = f
	}
	return s
}

// Function returns the function with the given name, or ErrNotFound.
func (s *Service) Function(name string) (Function, error) {
	f, ok := s.functions[name]
	if !ok {
		return Function{}, ErrNotFound
	}
	return f, nil
}

// Invoke runs the function once and returns the result. If the function fails, Invoke
// returns a Result with an ErrorType and no error. The error is ErrNotFound,
// ErrThrottled, ErrClosed or ctx's. ErrClosed also means that Interrupt or Close ended
// the function. If ctx ends, Invoke returns, but the function runs on until it ends or
// times out, as on AWS.
func (s *Service) Invoke(ctx context.Context, name string, req Request) (Result, error) {
	f, err := s.Function(name)
	if err != nil {
		return Result{}, err
	}
	if !s.enter() {
		return Result{}, ErrClosed
	}
	type outcome struct {
		result Result
		err    error
	}
	done := make(chan outcome, 1)
	go func() {
		defer s.wg.Done()
		r, err := s.run(f, req)
		done <- outcome{r, err}
	}()
	select {
	case o := <-done:
		return o.result, o.err
	case <-ctx.Done():
		return Result{}, ctx.Err()
	}
}

// Interrupt sends SIGTERM to every process, so that a waiting function can answer now.
// It returns at once. The service accepts further invocations until Close.
func (s *Service) Interrupt() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ending = true
	for e := range s.live {
		e.signal(syscall.SIGTERM)
	}
}

// Close kills every process, drops the waiting events, and returns when nothing of the
// service runs any more. It may be called more than once.
func (s *Service) Close() {
	s.mu.Lock()
	s.closed, s.ending = true, true
	s.stopNow()
	for e := range s.live {
		e.kill()
	}
	s.mu.Unlock()
	s.wg.Wait()
}

func (s *Service) enter() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.wg.Add(1)
	}
	return !s.closed
}

func (s *Service) isEnding() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ending
}

// run acquires an environment and runs one invocation in it.
func (s *Service) run(f Function, req Request) (Result, error) {
	if req.RequestID == "" {
		req.RequestID = uuid.NewString()
	}
	if len(req.Payload) == 0 {
		req.Payload = []byte("{}")
	}
	req.TraceID = newTraceID(req.TraceID)
	initLimit := s.opts.InitTimeout
	for attempt := 1; ; attempt++ {
		e, err := s.acquire(f)
		if err != nil {
			return Result{}, err
		}
		inv := &invocation{Request: req, answered: make(chan struct{})}
		err = e.run(inv, initLimit)
		if attempt < 3 && errors.Is(err, errUndelivered) {
			continue
		}
		if attempt == 1 && errors.Is(err, errInitTimeout) {
			initLimit = f.Timeout
			continue
		}
		if inv.result.ErrorType == errorExit && s.isEnding() {
			return Result{}, ErrClosed
		}
		if s.opts.Report != nil {
			s.opts.Report(inv.result)
		}
		return inv.result, nil
	}
}

// A function runs at most busyLimit invocations at once, enough to keep the processors
// busy. If none of them starts or ends for stalledAfter, they are presumably waiting for
// something, and one more may run.
//
// An invocation that may run, but finds all environments of its function busy, waits for
// startDelay before it starts a process. Starting one costs as much as dozens of
// invocations. If its function has no environment, it does not wait. If MaxEnvironments are
// running, the new process replaces one that has been idle for evictAfter, or any idle one
// if its function has no environment.
//
// An invocation that has waited for starvedAfter gets the next free environment of its
// function, even if busyLimit others run. After maxWait it takes any idle environment's
// place, or fails with ErrThrottled.
const (
	startDelay   = 2 * time.Millisecond
	stalledAfter = 20 * time.Millisecond
	starvedAfter = 250 * time.Millisecond
	evictAfter   = time.Second
	maxWait      = 500 * time.Millisecond
)

var busyLimit = 4 * runtime.NumCPU()

// A waiter is an invocation that waits for an environment of its function.
type waiter struct {
	function string
	since    time.Time
	assigned chan *environment // buffered, for the one environment that release assigns
}

// acquire returns an environment, which the caller then owns. A new environment has not
// been started yet.
func (s *Service) acquire(f Function) (*environment, error) {
	w := &waiter{function: f.Name, since: time.Now(), assigned: make(chan *environment, 1)}
	s.mu.Lock()
	e, err := s.acquireLocked(f, 0)
	if e == nil && err == nil {
		s.waiting = append(s.waiting, w)
	}
	s.mu.Unlock()
	if e != nil || err != nil {
		return e, err
	}
	poll := time.NewTimer(startDelay)
	defer poll.Stop()
	for {
		select {
		case e := <-w.assigned:
			return e, nil
		case <-poll.C:
			poll.Reset(stalledAfter)
		}
		if e, err := s.retryAcquire(f, w, time.Since(w.since)); e != nil || err != nil {
			return e, err
		}
	}
}

// retryAcquire returns an environment or an error, or neither if w must keep waiting.
func (s *Service) retryAcquire(f Function, w *waiter, waited time.Duration) (*environment, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := slices.Index(s.waiting, w)
	if i < 0 {
		return <-w.assigned, nil
	}
	e, err := s.acquireLocked(f, waited)
	if e != nil || err != nil {
		s.waiting = slices.Delete(s.waiting, i, i+1)
	}
	return e, err
}

// acquireLocked returns the function's most recently used idle environment, or a new
// one. It returns neither an environment nor an error if the invocation must wait, and
// ErrThrottled if it has waited for maxWait.
func (s *Service) acquireLocked(f Function, waited time.Duration) (*environment, error) {
	if s.closed {
		return nil, ErrClosed
	}
	count, waitedEnough := s.countLocked(f.Name), waited >= maxWait
	if count-s.countIdleLocked(f.Name) >= busyLimit && !waitedEnough && time.Since(s.lastProgress[f.Name]) < stalledAfter {
		return nil, nil
	}
	for i, e := range slices.Backward(s.idle) {
		if e.fn.Name == f.Name {
			s.idle = slices.Delete(s.idle, i, i+1)
			s.lastProgress[f.Name] = time.Now()
			return e, nil
		}
	}
	if count > 0 && !waitedEnough && waited < startDelay {
		return nil, nil
	}
	full := len(s.live) >= s.opts.MaxEnvironments
	switch {
	case f.Concurrency > 0 && count >= f.Concurrency,
		full && (len(s.idle) == 0 || count > 0 && !waitedEnough && time.Since(s.idle[0].idleSince) < evictAfter):
		if waitedEnough {
			return nil, ErrThrottled
		}
		return nil, nil
	case full:
		s.endLocked(s.idle[0])
	}
	return s.makeLocked(f), nil
}

func (s *Service) makeLocked(f Function) *environment {
	e := newEnvironment(s, f)
	s.live[e] = struct{}{}
	s.lastProgress[f.Name] = time.Now()
	return e
}

func (s *Service) endLocked(e *environment) {
	s.retireLocked(e)
	e.kill()
}

// countLocked returns the number of the function's environments.
func (s *Service) countLocked(function string) (n int) {
	for e := range s.live {
		if e.fn.Name == function {
			n++
		}
	}
	return n
}

// countIdleLocked returns the number of the function's idle environments.
func (s *Service) countIdleLocked(function string) (n int) {
	for _, e := range s.idle {
		if e.fn.Name == function {
			n++
		}
	}
	return n
}

// release takes back an environment after an invocation. It serves the waiting
// invocation that has waited longest, of these two kinds:
//
//   - one of the same function gets the environment, if fewer than busyLimit others of
//     the function run or it has waited for starvedAfter;
//   - if a function has no environment, its invocation gets a new environment, and
//     the released one is ended to make room.
//
// If there is no such invocation, the environment becomes idle.
func (s *Service) release(e *environment) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.live[e]; !ok || s.closed {
		return
	}
	s.lastProgress[e.fn.Name] = time.Now()
	busyOthers := s.countLocked(e.fn.Name) - s.countIdleLocked(e.fn.Name) - 1
	for i, w := range s.waiting {
		given := e
		switch {
		case w.function == e.fn.Name && (busyOthers < busyLimit || time.Since(w.since) >= starvedAfter):
		case s.countLocked(w.function) == 0:
			s.endLocked(e)
			given = s.makeLocked(s.functions[w.function])
		default:
			continue
		}
		s.waiting = slices.Delete(s.waiting, i, i+1)
		w.assigned <- given
		return
	}
	e.idleSince = time.Now()
	s.idle = append(s.idle, e)
}

// retire removes an environment whose process has exited or was killed, so that
// another one can be started.
func (s *Service) retire(e *environment) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.retireLocked(e)
}

func (s *Service) retireLocked(e *environment) {
	delete(s.live, e)
	if i := slices.Index(s.idle, e); i >= 0 {
		s.idle = slices.Delete(s.idle, i, i+1)
	}
}

// report returns the last line of an invocation's log.
func (r Result) report(f Function, maxMemoryMB int) string {
	ms := func(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
	line := fmt.Sprintf("REPORT RequestId: %s\tDuration: %.2f ms\tBilled Duration: %d ms\tMemory Size: %d MB",
		r.RequestID, ms(r.Duration), (r.Duration + r.Init + time.Millisecond - 1).Milliseconds(), f.MemoryMB)
	if maxMemoryMB > 0 {
		line += fmt.Sprintf("\tMax Memory Used: %d MB", maxMemoryMB)
	}
	if r.Cold {
		line += fmt.Sprintf("\tInit Duration: %.2f ms", ms(r.Init))
	}
	switch {
	case r.TimedOut:
		line += "\tStatus: timeout"
	case r.ErrorType == errorExit:
		line += "\tStatus: error\tError Type: " + r.ErrorType
	}
	return line + "\n"
}
