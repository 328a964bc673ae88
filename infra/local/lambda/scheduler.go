package lambda

import (
	"runtime"
	"slices"
	"time"
)

const (
	// After maxWait, an invocation takes any place that the bounds allow, or fails with
	// ErrThrottled.
	//
	// At MaxEnvironments, functions that are called in turn would replace each other's
	// environments at every call. A start costs as much as dozens of invocations. So a
	// function with environments replaces another's earlier only in two cases: that one has
	// been idle for maxWait, or its own have made no progress for maxWait.
	maxWait = 500 * time.Millisecond

	// A start costs as much as dozens of invocations. So a function with environments waits
	// for startDelay for one of them before it gets another.
	startDelay = 2 * time.Millisecond

	// With more running invocations than busyLimit, calls that keep the processors busy take
	// longer and start dozens of processes. So one more runs only if none has started or ended
	// for stalledAfter: then they are waiting for something else.
	stalledAfter = 20 * time.Millisecond
)

var busyLimit = 4 * runtime.NumCPU()

// A pool holds the environments of one function. Service.mu guards its fields.
type pool struct {
	Function
	count    int            // idle and running environments
	idle     []*environment // longest idle first
	progress time.Time      // when an invocation last started or ended
}

// A waiter is an invocation that waits for an environment of its function.
type waiter struct {
	pool   *pool
	since  time.Time
	answer chan *environment // buffered, for one answer: nil if there is no environment
}

// acquire waits for an environment, which the caller then owns. A new environment has not
// been started yet.
func (s *Service) acquire(p *pool) (*environment, error) {
	w := &waiter{pool: p, since: time.Now(), answer: make(chan *environment, 1)}
	s.mu.Lock()
	s.waiting = append(s.waiting, w)
	s.assignLocked(nil)
	s.mu.Unlock()
	first, tick := time.NewTimer(startDelay), time.NewTicker(stalledAfter)
	defer first.Stop()
	defer tick.Stop()
	for {
		select {
		case e := <-w.answer:
			if e == nil && s.stop.Err() != nil {
				return nil, ErrClosed
			} else if e == nil {
				return nil, ErrThrottled
			}
			return e, nil
		case <-first.C:
		case <-tick.C:
		}
		var late *waiter
		if time.Since(w.since) >= maxWait {
			late = w
		}
		s.mu.Lock()
		s.assignLocked(late)
		s.mu.Unlock()
	}
}

// assignLocked answers each waiter that may run now, longest waiting first. It also answers
// the late waiter, and all waiters if the service is closed.
func (s *Service) assignLocked(late *waiter) {
	s.waiting = slices.DeleteFunc(s.waiting, func(w *waiter) bool {
		var e *environment
		if !s.closed {
			e = s.takeLocked(w.pool, time.Since(w.since), w == late)
		}
		answered := e != nil || w == late || s.closed
		if answered {
			w.answer <- e
		}
		return answered
	})
}

// takeLocked returns the pool's most recently used idle environment or a new one. It
// returns nil if the bounds allow neither, or if a wait is better and late is not set.
func (s *Service) takeLocked(p *pool, waited time.Duration, late bool) *environment {
	if p.count-len(p.idle) >= busyLimit && !late && time.Since(p.progress) < stalledAfter {
		return nil
	}
	if last := len(p.idle) - 1; last >= 0 {
		e := p.idle[last]
		p.idle = p.idle[:last]
		p.progress = time.Now()
		return e
	}
	if p.Concurrency > 0 && p.count >= p.Concurrency || p.count > 0 && waited < startDelay {
		return nil
	}
	if len(s.live) >= s.opts.MaxEnvironments {
		e := s.longestIdleLocked()
		if e == nil || p.count > 0 && !late && time.Since(e.idleSince) < maxWait && time.Since(p.progress) < maxWait {
			return nil
		}
		s.removeLocked(e)
		e.kill()
	}
	e := newEnvironment(s, p)
	s.live[e] = struct{}{}
	p.count++
	p.progress = time.Now()
	return e
}

// longestIdleLocked returns nil if no environment is idle.
func (s *Service) longestIdleLocked() (longest *environment) {
	for _, p := range s.pools {
		if len(p.idle) > 0 && (longest == nil || p.idle[0].idleSince.Before(longest.idleSince)) {
			longest = p.idle[0]
		}
	}
	return longest
}

// release takes back an environment after an invocation.
func (s *Service) release(e *environment) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.live[e]; !ok {
		return
	}
	e.idleSince = time.Now()
	e.pool.progress = e.idleSince
	e.pool.idle = append(e.pool.idle, e)
	s.assignLocked(nil)
}

// retire removes an environment whose process has exited or was killed, so that
// another one can be started.
func (s *Service) retire(e *environment) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.removeLocked(e)
	s.assignLocked(nil)
}

func (s *Service) removeLocked(e *environment) {
	if _, ok := s.live[e]; !ok {
		return
	}
	delete(s.live, e)
	e.pool.count--
	if i := slices.Index(e.pool.idle, e); i >= 0 {
		e.pool.idle = slices.Delete(e.pool.idle, i, i+1)
	}
}
