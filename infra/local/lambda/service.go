package lambda

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"syscall"
	"time"

	"github.com/google/uuid"
)

// A Service invokes functions and manages their environments. It is safe for
// concurrent use.
type Service struct {
	opts   Options
	pools  map[string]*pool // by function name
	output *lineWriter

	mu      sync.Mutex
	closed  bool
	ending  bool                      // Interrupt or Close was called
	live    map[*environment]struct{} // each counts towards MaxEnvironments
	waiting []*waiter                 // longest first
	events  int                       // accepted and not finished

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
		opts:   o,
		pools:  make(map[string]*pool, len(functions)),
		output: &lineWriter{w: o.Output},
		live:   make(map[*environment]struct{}),
	}
	s.stop, s.stopNow = context.WithCancel(context.Background())
	for _, f := range functions {
		s.pools[f.Name] = &pool{Function: f}
	}
	return s
}

// Function returns the function with the given name, or ErrNotFound.
func (s *Service) Function(name string) (Function, error) {
	p, ok := s.pools[name]
	if !ok {
		return Function{}, ErrNotFound
	}
	return p.Function, nil
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
	s.assignLocked(nil)
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
		e, err := s.acquire(s.pools[f.Name])
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
