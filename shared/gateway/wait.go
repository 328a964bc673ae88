package gateway

import (
	"context"
	"log/slog"
	"net/http"
	"time"

	"github.com/google/uuid"

	"github.com/flovyn/promises/shared/promise"
)

const (
	defaultWait = 20 // seconds
	maxWait     = 25 // seconds; API Gateway gives up after 30
	pollEvery   = 150 * time.Millisecond

	// recountAt is the number of the poll, about a second after the first, after which
	// a call asks again whether too many calls are counted. Calls that begin at the
	// same time do not see each other in the first count.
	recountAt = 7

	// lastPoll is the part of the function's own time that a waiting call leaves for
	// its last poll.
	lastPoll = time.Second

	// endTimeout bounds the statement that ends a call's count. The caller waits for
	// it, and the row expires in any case.
	endTimeout = time.Second

	// pollAfter is the Retry-After, in seconds, of a wait beyond the tenant's
	// bound. A caller that keeps to it reads the promise once in the time in which a
	// waiting call reads it thirty times. By then, another wait has usually ended:
	// while 20 calls wait for 25 s each, one ends every 1.25 s.
	pollAfter = 5
)

func waitPromise(ctx context.Context, h *Handler, c *call) (answer, error) {
	seconds, err := c.parameters.integer("waitSeconds", defaultWait, 0, maxWait)
	if err != nil {
		return answer{}, err
	}
	var p promise.Promise
	retryAfter, err := h.await(ctx, c, seconds, func(ctx context.Context) (done bool, err error) {
		q, err := h.Store.Get(ctx, c.tenant, c.identifier)
		if err != nil {
			return false, err
		}
		p = q
		c.identifier = promise.ByID(p.ID) // its key may be reassigned once it is settled
		return p.State != promise.Pending, nil
	})
	if err != nil {
		return answer{}, err
	}
	return answer{status: http.StatusOK, body: encodePromise(c.principal, p, nil), retryAfter: retryAfter}, nil
}

func waitEvents(ctx context.Context, h *Handler, c *call) (answer, error) {
	seconds, err := c.parameters.integer("waitSeconds", defaultWait, 0, maxWait)
	if err != nil {
		return answer{}, err
	}
	page, err := h.readEventPage(ctx, c)
	if err != nil {
		return answer{}, err
	}
	var events []promise.Event
	retryAfter, err := h.await(ctx, c, seconds, func(ctx context.Context) (done bool, err error) {
		events, err = page.read(ctx)
		return len(events) > 0, err
	})
	if err != nil {
		return answer{}, err
	}
	return answer{status: http.StatusOK, body: encodeEvents(events, page.after), retryAfter: retryAfter}, nil
}

// await polls until a poll is done, a poll fails, or the time is up. It uses no
// database connection between two polls. If the function's own end cuts off a later
// poll, await returns no error, and the answer is the result of the poll before.
//
// A call whose first poll is not done is counted until await returns. Beyond the
// tenant's bound await stops polling, and retryAfter is not zero.
func (h *Handler) await(
	ctx context.Context, c *call, seconds int64, poll func(context.Context) (done bool, err error),
) (retryAfter int, err error) {
	until := time.Now().Add(time.Duration(seconds) * time.Second)
	if expires := c.principal.ExpiresAt; !expires.IsZero() && until.After(expires) {
		until = expires
	}
	if deadline, ok := ctx.Deadline(); ok {
		if until.After(deadline.Add(-lastPoll)) {
			until = deadline.Add(-lastPoll)
		}
		var stop context.CancelFunc
		ctx, stop = context.WithDeadline(ctx, deadline.Add(-lastPoll/3))
		defer stop()
	}
	id := uuid.New()
	answerBy := c.answerBy // bounds one poll
	for polls := 0; ; polls++ {
		pollCtx, stop := context.WithDeadline(ctx, answerBy)
		done, err := poll(pollCtx)
		stop()
		left := time.Until(until)
		if err != nil && polls > 0 && ctx.Err() != nil {
			return 0, nil
		}
		if err != nil || done || left <= 0 {
			return 0, err
		}
		switch polls {
		case 0:
			uncount, counted := h.countWait(ctx, c.tenant, id, left)
			if !counted {
				return pollAfter, nil
			}
			defer uncount()
		case recountAt:
			if !h.keepWait(ctx, c.tenant, id) {
				return pollAfter, nil
			}
		}
		select {
		case <-ctx.Done():
			return 0, nil
		case <-h.Stopping:
			until = time.Now()
		case <-time.After(min(pollEvery, left)):
		}
		answerBy = h.answerBy(time.Time{})
	}
}

// countWait counts a call among the waiting calls of its tenant, for the time left
// and one last poll. counted is false beyond the tenant's bound. It is also false if
// the statement fails: a call that is not counted does not wait.
func (h *Handler) countWait(ctx context.Context, tenant string, id uuid.UUID, left time.Duration) (uncount func(), counted bool) {
	function := ctx
	ctx, stop := context.WithDeadline(ctx, h.answerBy(time.Time{}))
	defer stop()
	counted, err := h.Store.BeginWait(ctx, tenant, id, left+h.Timeout, h.MaxWaits)
	switch {
	case err != nil:
		h.Log.LogAttrs(ctx, slog.LevelError, "wait could not be counted", slog.String("tenant", tenant), slog.String("cause", err.Error()))
	case !counted:
		h.Log.LogAttrs(ctx, slog.LevelInfo, "tenant has too many waits", slog.String("tenant", tenant))
	}
	return func() {
		ctx, stop := context.WithTimeout(context.WithoutCancel(function), endTimeout)
		defer stop()
		if deadline, ok := function.Deadline(); ok { // await stops earlier, which leaves time for this
			ctx, stop = context.WithDeadline(ctx, deadline.Add(lastPoll/6))
			defer stop()
		}
		if err := h.Store.EndWait(ctx, tenant, id); err != nil {
			h.Log.LogAttrs(ctx, slog.LevelWarn, "wait stays counted until it expires", slog.String("tenant", tenant), slog.String("cause", err.Error()))
		}
	}, counted
}

// keepWait reports whether a counted call may keep waiting. If the statement fails,
// the call may: it passed the first count.
func (h *Handler) keepWait(ctx context.Context, tenant string, id uuid.UUID) bool {
	ctx, stop := context.WithDeadline(ctx, h.answerBy(time.Time{}))
	defer stop()
	kept, err := h.Store.KeepWait(ctx, tenant, id, h.MaxWaits)
	if err == nil && !kept {
		h.Log.LogAttrs(ctx, slog.LevelInfo, "tenant has too many waits", slog.String("tenant", tenant))
	}
	return err != nil || kept
}
