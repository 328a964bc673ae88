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

// Service keeps the environments of a set of functions and invokes them. It is
// safe for concurrent use.
type Service struct {
	opts      Options
	functions map[string]Function
	output    *lineWriter

	mu      sync.Mutex
	closed  bool
	ending  bool                      // Interrupt was called, or Close
	live    map[*environment]struct{} // hold one of the MaxEnvironments places
	idle    []*environment            // longest idle first
	waiting []*waiter                 // longest first
	events  int                       // accepted and not yet done
	// progress is when an environment of the function was last made, taken or done.
	progress map[string]time.Time

	stop    context.Context
	stopNow context.CancelFunc
	wg      sync.WaitGroup
}

// New makes a service of the given functions. Nothing is started before the
// first invocation. Close it after use.
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
		opts:      o,
		functions: make(map[string]Function, len(functions)),
		output:    &lineWriter{w: o.Output},
		live:      make(map[*environment]struct{}),
		progress:  make(map[string]time.Time),
	}
	s.stop, s.stopNow = context.WithCancel(context.Background())
	for _, f := range functions {
		s.functions[f.Name] = f
	}
	return s
}

// Function returns the function of that name, or ErrNotFound.
func (s *Service) Function(name string) (Function, error) {
	f, ok := s.functions[name]
	if !ok {
		return Function{}, ErrNotFound
	}
	return f, nil
}

// Invoke runs the function once and returns how that ended; a function that
// failed is a Result with an ErrorType, not an error. Errors are ErrNotFound,
// ErrThrottled, ErrClosed, which is also that of a function which Interrupt or
// Close ended, and ctx's: then the caller waits no longer, but the
// function runs on to its end or timeout, as it does on AWS.
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

// Interrupt sends SIGTERM to every process, so that a function which waits for
// something can answer now. It returns at once, and more can be invoked; Close
// ends the service.
func (s *Service) Interrupt() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ending = true
	for e := range s.live {
		e.signal(syscall.SIGTERM)
	}
}

// Close kills every environment, drops the events that still wait, and returns
// when nothing of the service runs any more. It may be called twice.
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

// run finds an environment and runs one invocation in it.
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

// So many invocations of a function run at once that the processors have enough to
// do. More would only be in each other's way, unless those wait for something
// themselves: one more runs when none has been done, or added, for stuckAfter.
// Where there is no environment for an invocation that may run, it waits for
// startAfter before one is started: that takes as much as dozens of invocations.
// At the bound a new one takes the place of one that has been idle for idleFor;
// whoever has waited for giveUp takes what there is.
const (
	startAfter = 2 * time.Millisecond
	stuckAfter = 20 * time.Millisecond
	passedBy   = 250 * time.Millisecond
	idleFor    = time.Second
	giveUp     = 500 * time.Millisecond
)

var enough = 4 * runtime.NumCPU()

// waiter is an invocation that waits for an environment of its function.
type waiter struct {
	function string
	since    time.Time
	given    chan *environment // has room for the one
}

// acquire returns an environment that is the caller's to run; it may be a new one,
// which is not started yet.
func (s *Service) acquire(f Function) (*environment, error) {
	w := &waiter{function: f.Name, since: time.Now(), given: make(chan *environment, 1)}
	s.mu.Lock()
	e, err := s.acquireLocked(f, 0)
	if e == nil && err == nil {
		s.waiting = append(s.waiting, w)
	}
	s.mu.Unlock()
	if e != nil || err != nil {
		return e, err
	}
	look := time.NewTimer(startAfter)
	defer look.Stop()
	for {
		select {
		case e := <-w.given:
			return e, nil
		case <-look.C:
			look.Reset(stuckAfter)
		}
		if e, err := s.acquireLate(f, w, time.Since(w.since)); e != nil || err != nil {
			return e, err
		}
	}
}

// acquireLate returns neither an environment nor an error where w waits on.
func (s *Service) acquireLate(f Function, w *waiter, waited time.Duration) (*environment, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := slices.Index(s.waiting, w)
	if i < 0 {
		return <-w.given, nil
	}
	e, err := s.acquireLocked(f, waited)
	if e != nil || err != nil {
		s.waiting = slices.Delete(s.waiting, i, i+1)
	}
	return e, err
}

// acquireLocked takes the environment that was idle for the shortest time, or
// makes one; after so long a wait it fails where there is neither.
func (s *Service) acquireLocked(f Function, waited time.Duration) (*environment, error) {
	if s.closed {
		return nil, ErrClosed
	}
	count, late := s.countLocked(f.Name), waited >= giveUp
	if count-s.idleLocked(f.Name) >= enough && !late && time.Since(s.progress[f.Name]) < stuckAfter {
		return nil, nil
	}
	for i, e := range slices.Backward(s.idle) {
		if e.fn.Name == f.Name {
			s.idle = slices.Delete(s.idle, i, i+1)
			s.progress[f.Name] = time.Now()
			return e, nil
		}
	}
	if count > 0 && !late && waited < startAfter {
		return nil, nil
	}
	all := len(s.live) >= s.opts.MaxEnvironments
	switch {
	case f.Concurrency > 0 && count >= f.Concurrency,
		all && (len(s.idle) == 0 || count > 0 && !late && time.Since(s.idle[0].idleSince) < idleFor):
		if late {
			return nil, ErrThrottled
		}
		return nil, nil
	case all:
		s.endLocked(s.idle[0])
	}
	return s.makeLocked(f), nil
}

func (s *Service) makeLocked(f Function) *environment {
	e := newEnvironment(s, f)
	s.live[e] = struct{}{}
	s.progress[f.Name] = time.Now()
	return e
}

func (s *Service) endLocked(e *environment) {
	s.retireLocked(e)
	e.kill()
}

// countLocked is how many environments the function has.
func (s *Service) countLocked(function string) (n int) {
	for e := range s.live {
		if e.fn.Name == function {
			n++
		}
	}
	return n
}

// idleLocked is how many of them have nothing to do.
func (s *Service) idleLocked(function string) (n int) {
	for _, e := range s.idle {
		if e.fn.Name == function {
			n++
		}
	}
	return n
}

// release gives the environment to the invocation of its function that has
// waited longest, or its place to one that has waited longer and whose function
// has none, or keeps it for the next one; that, too, where enough run without it
// and nobody has waited for passedBy.
func (s *Service) release(e *environment) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.live[e]; !ok || s.closed {
		return
	}
	s.progress[e.fn.Name] = time.Now()
	without := s.countLocked(e.fn.Name) - s.idleLocked(e.fn.Name) - 1
	for i, w := range s.waiting {
		given := e
		switch {
		case w.function == e.fn.Name && (without < enough || time.Since(w.since) >= passedBy):
		case s.countLocked(w.function) == 0:
			s.endLocked(e)
			given = s.makeLocked(s.functions[w.function])
		default:
			continue
		}
		s.waiting = slices.Delete(s.waiting, i, i+1)
		w.given <- given
		return
	}
	e.idleSince = time.Now()
	s.idle = append(s.idle, e)
}

// retire gives the environment's place back: its process is gone or doomed.
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

// report is the last line of an invocation's log.
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
