package lambda

import (
	"errors"
	"time"

	"github.com/google/uuid"
)

const (
	maxEvents           = 1000
	throttledRetryDelay = 200 * time.Millisecond
)

// InvokeEvent accepts an asynchronous invocation, as Lambda does for the type
// Event, and returns its request id at once. The function runs in the background.
// If it fails, it runs again under the same id after each of EventRetryDelays. If it
// is throttled, the service tries again after a short wait, without counting a retry.
// The error is ErrNotFound, ErrClosed, or ErrThrottled if 1,000 events already wait.
// Close drops the events that have not run.
func (s *Service) InvokeEvent(name string, req Request) (string, error) {
	f, err := s.Function(name)
	if err != nil {
		return "", err
	}
	if req.RequestID == "" {
		req.RequestID = uuid.NewString()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return "", ErrClosed
	}
	if s.events >= maxEvents {
		return "", ErrThrottled
	}
	s.events++
	s.wg.Add(1)
	go s.runEvent(f, req)
	return req.RequestID, nil
}

func (s *Service) runEvent(f Function, req Request) {
	defer s.wg.Done()
	defer func() {
		s.mu.Lock()
		s.events--
		s.mu.Unlock()
	}()
	retries := s.opts.EventRetryDelays
	for {
		wait := throttledRetryDelay
		result, err := s.run(f, req)
		switch {
		case errors.Is(err, ErrThrottled):
		case err != nil || result.ErrorType == "" || len(retries) == 0:
			return
		default:
			wait, retries = retries[0], retries[1:]
		}
		select {
		case <-time.After(wait):
		case <-s.stop.Done():
			return
		}
	}
}
