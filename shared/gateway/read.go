package gateway

import (
	"context"
	"math"
	"net/http"
	"time"

	"github.com/google/uuid"

	"github.com/flovyn/promises/shared/promise"
)

const (
	maxWait   = 25 // seconds, so that a call is answered before API Gateway's 30 are over
	pollEvery = 150 * time.Millisecond
	maxPage   = 100

	// lastLook is what a call that waits leaves of the function's own time.
	lastLook = time.Second

	// maxAnswer bounds a page in its HTTP form, with room for what is around it:
	// Lambda answers with at most 6 MB.
	maxAnswer = 5_500_000
)

func get(ctx context.Context, h *Handler, c *call) (answer, error) {
	wait, err := c.parameters.integer("waitSeconds", 0, 0, maxWait)
	if err != nil {
		return answer{}, err
	}
	var p promise.Promise
	err = h.await(ctx, c, wait, func(ctx context.Context) (done bool, err error) {
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
	return answer{http.StatusOK, encodePromise(c.principal, p, nil)}, nil
}

// await looks until something is done, an error ends it, or its time is over.
// No connection to the database is used in between. A later look that the
// function's own end cuts off is no error: the one before it stands.
func (h *Handler) await(
	ctx context.Context, c *call, seconds int64, look func(context.Context) (done bool, err error),
) error {
	end := time.Now().Add(time.Duration(seconds) * time.Second)
	if over := c.principal.ExpiresAt; !over.IsZero() && end.After(over) {
		end = over
	}
	if deadline, ok := ctx.Deadline(); ok {
		if end.After(deadline.Add(-lastLook)) {
			end = deadline.Add(-lastLook)
		}
		var stop context.CancelFunc
		ctx, stop = context.WithDeadline(ctx, deadline.Add(-lastLook/3))
		defer stop()
	}
	latest := c.deadline // of one look
	for looks := 0; ; looks++ {
		looking, stop := context.WithDeadline(ctx, latest)
		done, err := look(looking)
		stop()
		left := time.Until(end)
		if err != nil && looks > 0 && ctx.Err() != nil {
			return nil
		}
		if err != nil || done || left <= 0 {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-h.Stopping:
			end = time.Now()
		case <-time.After(min(pollEvery, left)):
		}
		latest = h.deadline(time.Time{})
	}
}

func listPromises(ctx context.Context, h *Handler, c *call) (answer, error) {
	limit, err := c.parameters.integer("limit", maxPage, 1, maxPage)
	if err != nil {
		return answer{}, err
	}
	filter, err := h.readFilter(ctx, c)
	if err != nil {
		return answer{}, err
	}
	promises, more, err := h.Store.ListPromises(ctx, c.tenant, filter, int(limit))
	if err != nil {
		return answer{}, err
	}
	if len(promises) == 0 {
		if err := h.suspended(ctx, c); err != nil {
			return answer{}, err
		}
	}
	return answer{http.StatusOK, encodePromises(c.principal, promises, more, filter)}, nil
}

func (h *Handler) readFilter(ctx context.Context, c *call) (promise.Filter, error) {
	f, workflow, err := readFilter(c.parameters)
	if err != nil || workflow == nil {
		return f, err
	}
	id, err := h.workflowExecutionID(ctx, c.tenant, *workflow)
	f.WorkflowExecutionID = &id
	return f, err
}

// readFilter leaves out the workflow execution, which it returns by itself.
func readFilter(p parameters) (f promise.Filter, workflow *promise.Workflow, err error) {
	if workflow, err = optionalWorkflow(p.text); err != nil {
		return f, workflow, err
	}
	texts := map[string]string{}
	for _, name := range []string{"name", "state", "timeoutBefore", "cursor"} {
		s, err := p.text(name)
		if err != nil {
			return f, workflow, err
		}
		if s != nil {
			texts[name] = *s
		}
	}
	if s, ok := texts["name"]; ok {
		if err := promise.CheckName(s); err != nil {
			return f, workflow, within("name", err)
		}
		f.Name = &s
	}
	if s, ok := texts["state"]; ok {
		state := promise.State(s)
		switch state {
		case promise.Pending, promise.Resolved, promise.Rejected, promise.Cancelled, promise.TimedOut:
			f.State = &state
		default:
			return f, workflow, fail(promise.CodeInvalidParameter, "state", "It must be pending, resolved, rejected, cancelled or timed_out.")
		}
	}
	if s, ok := texts["timeoutBefore"]; ok {
		t, valid := parseTime(s)
		if !valid {
			return f, workflow, fail(promise.CodeInvalidParameter, "timeoutBefore", "It must be an RFC 3339 time.")
		}
		f.TimeoutBefore = &t
	}
	if s, ok := texts["cursor"]; ok {
		cursor, err := promise.ParseCursor(s)
		if err != nil {
			return f, workflow, within("cursor", err)
		}
		f.After = &cursor
	}
	whole := f
	if workflow != nil {
		whole.WorkflowExecutionID = &uuid.Nil // any one: Check asks whether there is one
	}
	return f, workflow, whole.Check()
}

func listEvents(ctx context.Context, h *Handler, c *call) (answer, error) {
	after, err := c.parameters.integer("after", 0, 0, math.MaxInt32)
	if err != nil {
		return answer{}, err
	}
	limit, err := c.parameters.integer("limit", maxPage, 1, maxPage)
	if err != nil {
		return answer{}, err
	}
	wait, err := c.parameters.integer("waitSeconds", 0, 0, maxWait)
	if err != nil {
		return answer{}, err
	}
	workflow, err := h.workflowExecutionID(ctx, c.tenant, c.workflow)
	if err != nil {
		return answer{}, err
	}
	var events []promise.Event
	err = h.await(ctx, c, wait, func(ctx context.Context) (done bool, err error) {
		events, err = h.Store.ListEvents(ctx, c.tenant, workflow, int32(after), int(limit))
		return len(events) > 0, err
	})
	if err != nil {
		return answer{}, err
	}
	return answer{http.StatusOK, encodeEvents(events, int32(after))}, nil
}
