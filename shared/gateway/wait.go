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
	maxWait     = 25 // seconds, so that a call is answered before API Gateway's 30 are over
	pollEvery   = 150 * time.Millisecond

	// secondCount is the look, about a second after the first, before which a call
	// asks whether it was counted beside too many others.
	recountAt = 7

	// lastLook is what a call that waits leaves of the function's own time.
	lastPoll = time.Second

	// endTimeout bounds the removal of a call from those that are counted. Its
	// caller waits for that, and the row expires in any case.
	endTimeout = time.Second

	// pollAfter is the Retry-After, in seconds, of a wait beyond the tenant's
	// bound. A caller who keeps to it reads the promise once where a wait reads it
	// thirty times, and a place is free by then more often than not: while 20 calls
	// wait for 25 s each, one ends every 1.25 s.
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
		c.identifier = promise.ByID(p.ID) // its key may be free as soon as it is settled
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

// await looks until something is done, an error ends it, or its time is over.
// No connection to the database is used in between. A later look that the
// function's own end cuts off is no error: the one before it stands.
//
// A call whose first look finds nothing is counted until await returns. Beyond
// the tenant's bound it looks no more, and retryAfter is not zero.
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
	answerBy := c.answerBy // of one look
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

// count counts a call that waits for left, and then for a last look, among
// those of its tenant. counted is false beyond the tenant's bound. It is also
// false if the database could not say: a call that is not counted does not wait.
func (h *Handler) countWait(ctx context.Context, tenant string, id uuid.UUID, left time.Duration) (uncount func(), counted bool) {
	function := ctx
	ctx, stop := context.WithDeadline(ctx, h.answerBy(time.Time{}))
	defer stop()
	counted, err := h.Store.BeginWait(ctx, tenant, id, left+h.Timeout, h.MaxWaits)
	switch {
	case err != nil:
		h.Log.LogAttrs(ctx, slog.LevelError, "wait not counted", slog.String("tenant", tenant), slog.String("cause", err.Error()))
	case !counted:
		h.Log.LogAttrs(ctx, slog.LevelInfo, "too many waits", slog.String("tenant", tenant))
	}
	return func() {
		ctx, stop := context.WithTimeout(context.WithoutCancel(function), endTimeout)
		defer stop()
		if deadline, ok := function.Deadline(); ok { // which leaves some of the function's own time
			ctx, stop = context.WithDeadline(ctx, deadline.Add(lastPoll/6))
			defer stop()
		}
		if err := h.Store.EndWait(ctx, tenant, id); err != nil {
			h.Log.LogAttrs(ctx, slog.LevelWarn, "wait counted until it expires", slog.String("tenant", tenant), slog.String("cause", err.Error()))
		}
	}, counted
}

// keep reports whether a call that was counted may wait on. If the database cannot
// say, it may: its first count stands.
func (h *Handler) keepWait(ctx context.Context, tenant string, id uuid.UUID) bool {
	ctx, stop := context.WithDeadline(ctx, h.answerBy(time.Time{}))
	defer stop()
	kept, err := h.Store.KeepWait(ctx, tenant, id, h.MaxWaits)
	if err == nil && !kept {
		h.Log.LogAttrs(ctx, slog.LevelInfo, "too many waits", slog.String("tenant", tenant))
	}
	return err != nil || kept
}
