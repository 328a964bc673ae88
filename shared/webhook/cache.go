package webhook

import (
	"context"
	"sync"
	"time"
)

const (
	// GetAge is the age from which Get reads a value again.
	GetAge = 30 * time.Second

	// RefreshAge is the age from which Refresh reads a value again.
	RefreshAge = time.Second

	// CacheSize is the largest number of values. Beyond it the oldest is forgotten.
	CacheSize = 1000
)

// A Cache keeps one value for each source of each tenant. The absence of a source is a
// value, too. A source's URL has a checksum, so outsiders cannot fill the cache with
// names that they invent.
//
// The age of a value counts from before it was read, by the wall clock: Lambda freezes
// processes, and the monotonic clock may stand still meanwhile. Errors are not kept.
// Callers that need the same value at the same time share one read. All callers share
// the value, so none may change it. A Cache is safe for concurrent use.
type Cache[T any] struct {
	now func() time.Time

	mu      sync.Mutex
	values  map[source]value[T]
	flights map[source]*flight[T]
}

// A source is the key of a value.
type source struct{ tenant, name string }

// A value is the result of a read.
type value[T any] struct {
	of    T
	begun time.Time // before the read
}

// A flight is a read that is running. Its other members are valid once done is closed.
type flight[T any] struct {
	done chan struct{}
	value[T]
	err       error
	abandoned bool // it has no result for others: its caller panicked, or has gone away
}

// NewCache returns an empty cache. now is time.Now but for tests.
func NewCache[T any](now func() time.Time) *Cache[T] {
	return &Cache[T]{now: now, values: map[source]value[T]{}, flights: map[source]*flight[T]{}}
}

// Get returns a source's value and its age. It calls read if the value is 30 s old or
// older, or is not there.
func (c *Cache[T]) Get(ctx context.Context, tenant, name string, read func(context.Context) (T, error)) (T, time.Duration, error) {
	return c.fetch(ctx, source{tenant, name}, GetAge, read)
}

// Refresh returns a source's value as Get does, and calls read if the value is 1 s old or
// older. It is for a request that a value of Get refused, so that a new secret counts
// within a second. A flood of such requests reads each source once a second.
func (c *Cache[T]) Refresh(ctx context.Context, tenant, name string, read func(context.Context) (T, error)) (T, time.Duration, error) {
	return c.fetch(ctx, source{tenant, name}, RefreshAge, read)
}

// Forget drops a source's value, so that the next call reads it. The result of a read that
// is running reaches the callers that wait for it already, and no others.
func (c *Cache[T]) Forget(tenant, name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.values, source{tenant, name})
	delete(c.flights, source{tenant, name})
}

// fetch returns the value if it is younger than limit, and otherwise reads it, or waits
// for the caller that reads it.
func (c *Cache[T]) fetch(ctx context.Context, s source, limit time.Duration, read func(context.Context) (T, error)) (T, time.Duration, error) {
	for {
		c.mu.Lock()
		now := c.clock()
		v, found := c.values[s]
		if age := now.Sub(v.begun); found && age >= 0 && age < limit { // an age below 0: the clock was set back
			c.mu.Unlock()
			return v.of, age, nil
		}
		f, running := c.flights[s]
		if !running {
			f = &flight[T]{done: make(chan struct{}), value: value[T]{begun: now}, abandoned: true}
			c.flights[s] = f
		}
		c.mu.Unlock()
		if !running {
			c.lead(ctx, s, f, read)
			return f.of, max(0, c.clock().Sub(f.begun)), f.err
		}
		select {
		case <-ctx.Done():
			var none T
			return none, 0, ctx.Err()
		case <-f.done:
			if !f.abandoned {
				return f.of, max(0, c.clock().Sub(f.begun)), f.err
			}
		}
	}
}

// lead reads the value for all callers that wait for the flight.
func (c *Cache[T]) lead(ctx context.Context, s source, f *flight[T], read func(context.Context) (T, error)) {
	defer func() { // also if read panics
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.flights[s] == f { // no Forget came meanwhile
			delete(c.flights, s)
			if !f.abandoned && f.err == nil {
				c.keep(s, f.value)
			}
		}
		close(f.done)
	}()
	f.of, f.err = read(ctx)
	f.abandoned = f.err != nil && ctx.Err() != nil
}

// keep stores a value. The caller holds the lock.
func (c *Cache[T]) keep(s source, v value[T]) {
	if _, found := c.values[s]; !found && len(c.values) >= CacheSize {
		var oldest source
		first := true
		for at, other := range c.values {
			if first || other.begun.Before(c.values[oldest].begun) {
				oldest, first = at, false
			}
		}
		delete(c.values, oldest)
	}
	c.values[s] = v
}

// clock returns the time without a monotonic reading.
func (c *Cache[T]) clock() time.Time { return c.now().Round(0) }
