package client

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
)

const (
	// waitTime is the time for which the service holds a call that waits. API Gateway
	// gives up after 30 s.
	waitTime = 20 * time.Second

	// uncounted is the pause after a wait that the service answered at once, because
	// the tenant has as many waits as it may.
	uncounted = 5 * time.Second

	// The pauses between two reads, while waits are refused.
	firstPoll = time.Second
	mostPoll  = 30 * time.Second

	// waitAgain is the number of reads after which a wait is tried again.
	waitAgain = 8
)

// Await returns a promise once it is settled, in whatever state, or an error once ctx ends:
// errors.Is(err, context.DeadlineExceeded). Give ctx a deadline, or the promise, or both.
// A call by key that finds a promise goes on by its id, because the key may name another
// promise later.
//
// It waits in the service, which notices the settlement within 150 ms. If the service
// refuses waits, Await reads with pauses of 1 to 30 s. That happens if the tenant has as
// many waits as it may, if wait-promise may not be invoked, or if it is unavailable.
//
// A failure of the first read is returned, for example CodeNotFound. Once a read has
// succeeded, Await outlives every failure that may pass, such as a service that restarts.
// The error after the end of ctx names the last failure.
//
// A waiter that should use no process meanwhile is notified by a delivery: Create.Notify.
func (c *Client) Await(ctx context.Context, id Identifier) (Promise, error) {
	var p Promise
	read := func(ctx context.Context) (err error) {
		if p, err = c.Get(ctx, id); err == nil {
			id = p.Identifier()
		}
		return err
	}
	wait := func(ctx context.Context, seconds int64) (time.Duration, error) {
		target, path, err := id.target()
		if err != nil {
			return 0, err
		}
		r := Request{Function: "wait-promise", Method: "GET", Path: path + "/wait", Target: target}
		pause, err := c.wait(ctx, r, seconds, &p)
		if err == nil {
			id = p.Identifier()
		}
		return pause, err
	}
	err := poll(ctx, poller{
		wait: wait, read: read,
		done:     func() bool { return p.State != "" && p.State != Pending },
		deadline: func() time.Time { return p.TimeoutAt },
	})
	if err != nil {
		return Promise{}, fmt.Errorf("promises: await %s: %w", id, err)
	}
	return p, nil
}

// Await waits until a promise is settled, as the method does, and decodes its value. A
// promise that was rejected or cancelled, or that timed out, is a *SettledError. A value
// that does not fit T, or that was erased, is an error too.
func Await[T any](ctx context.Context, c *Client, id Identifier) (T, error) {
	p, err := c.Await(ctx, id)
	if err != nil {
		var none T
		return none, err
	}
	return Value[T](p)
}

// WaitEvents returns the events of a workflow execution's log after a number, as soon as
// there is one, and the number to go on from. It waits, polls and fails as Await does.
func (c *Client) WaitEvents(ctx context.Context, w Workflow, after int) (events []Event, next int, err error) {
	var page eventPage
	err = poll(ctx, poller{
		wait: func(ctx context.Context, seconds int64) (time.Duration, error) {
			r := eventsRequest("wait-events", w, after)
			if r.err != nil {
				return 0, r.err
			}
			r.Path += "/wait"
			page = eventPage{}
			return c.wait(ctx, r, seconds, &page)
		},
		read: func(ctx context.Context) (err error) {
			page.Events, page.NextAfter, err = c.readEvents(ctx, w, after)
			return err
		},
		done:     func() bool { return len(page.Events) > 0 },
		deadline: func() time.Time { return time.Time{} },
	})
	if err != nil {
		return nil, after, fmt.Errorf("promises: wait for events: %w", err)
	}
	return page.Events, page.NextAfter, nil
}

// wait sends a call that waits, once.
func (c *Client) wait(ctx context.Context, r Request, seconds int64, out any) (retryAfter time.Duration, err error) {
	query := fields{list: r.Query}
	query.number("waitSeconds", seconds)
	r.Query = query.list
	a, e := c.attempt(ctx, r)
	if e != nil {
		return 0, e
	}
	return a.RetryAfter, decode(r, a, out)
}

// A poller reads something until it is done.
type poller struct {
	wait     func(ctx context.Context, seconds int64) (retryAfter time.Duration, err error) // one attempt
	read     func(ctx context.Context) error                                                // as many attempts as a call has
	done     func() bool
	deadline func() time.Time // the time at which it may become done by itself; zero: unknown

	reads int // since the last wait that was not refused
}

// poll waits, or reads with pauses while waits are refused, until p is done, a read fails
// for good, or ctx ends.
func poll(ctx context.Context, p poller) error {
	var last error // the failure of the last attempt
	for seen := false; ; {
		pause, err := p.next(ctx)
		if err == nil && p.done() {
			return nil
		}
		if err == nil || ctx.Err() == nil {
			last = err
		}
		e, failed := errors.AsType[*Error](err)
		if failed && ctx.Err() == nil && (!seen || !e.Temporary) {
			return err
		}
		seen = seen || err == nil
		if at := time.Until(p.deadline()); at > 0 && at < pause {
			pause = at
		}
		if !sleepOrEnd(ctx, pause) {
			if last != nil {
				return fmt.Errorf("%w; the last attempt failed: %w", ctx.Err(), last)
			}
			return ctx.Err()
		}
	}
}

// next makes one wait or one read. It returns the pause before the following one.
func (p *poller) next(ctx context.Context) (time.Duration, error) {
	if p.reads%waitAgain == 0 {
		limit := waitTime
		if deadline, ok := ctx.Deadline(); ok {
			limit = min(limit, max(0, time.Until(deadline)).Truncate(time.Second))
		}
		begun := time.Now()
		retryAfter, err := p.wait(ctx, int64(limit/time.Second))
		switch {
		case err == nil && retryAfter > 0:
			p.reads = 0
			return retryAfter + rand.N(time.Second), nil
		case err == nil && limit <= time.Second: // the end of ctx is near
			return uncounted/20 + rand.N(uncounted/20), nil
		case err == nil && time.Since(begun) < limit-time.Second: // a direct invoke has no Retry-After
			p.reads = 0
			return uncounted + rand.N(time.Second), nil
		case err == nil:
			p.reads = 0
			return 0, nil
		case ctx.Err() != nil:
			return 0, err
		}
	}
	d := grow(firstPoll, mostPoll, p.reads)
	p.reads++
	return d/2 + rand.N(d/2), p.read(ctx)
}

// sleepOrEnd waits for d, or until ctx ends. It returns false if ctx has ended.
func sleepOrEnd(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return ctx.Err() == nil
	}
}
