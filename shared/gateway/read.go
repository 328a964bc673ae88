package gateway

import (
	"context"
	"math"
	"net/http"

	"github.com/google/uuid"

	"github.com/flovyn/promises/shared/promise"
)

const maxPage = 100

func get(ctx context.Context, h *Handler, c *call) (answer, error) {
	p, err := h.Store.Get(ctx, c.tenant, c.identifier)
	if err != nil {
		return answer{}, err
	}
	return answer{status: http.StatusOK, body: encodePromise(c.principal, p, nil)}, nil
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
	return answer{status: http.StatusOK, body: encodePromises(c.principal, promises, more, filter)}, nil
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

// readFilter returns the workflow execution apart from the filter, because an
// external id must first be looked up.
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
			return f, workflow, fieldError("state", promise.CodeInvalidParameter, "state must be pending, resolved, rejected, cancelled or timed_out.")
		}
	}
	if s, ok := texts["timeoutBefore"]; ok {
		t, valid := parseTime(s)
		if !valid {
			return f, workflow, fieldError("timeoutBefore", promise.CodeInvalidParameter, "timeoutBefore must be an RFC 3339 time, such as 2030-01-31T12:00:00Z.")
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
	complete := f
	if workflow != nil {
		complete.WorkflowExecutionID = &uuid.Nil // Check only needs to know that one is given
	}
	return f, workflow, complete.Check()
}

func listEvents(ctx context.Context, h *Handler, c *call) (answer, error) {
	p, err := h.readEventPage(ctx, c)
	if err != nil {
		return answer{}, err
	}
	events, err := p.read(ctx)
	if err != nil {
		return answer{}, err
	}
	return answer{status: http.StatusOK, body: encodeEvents(events, p.after)}, nil
}

// An eventPage is the part of a workflow execution's log that a call asks for.
type eventPage struct {
	read  func(context.Context) ([]promise.Event, error)
	after int32
}

func (h *Handler) readEventPage(ctx context.Context, c *call) (eventPage, error) {
	after, err := c.parameters.integer("after", 0, 0, math.MaxInt32)
	if err != nil {
		return eventPage{}, err
	}
	limit, err := c.parameters.integer("limit", maxPage, 1, maxPage)
	if err != nil {
		return eventPage{}, err
	}
	workflow, err := h.workflowExecutionID(ctx, c.tenant, c.workflow)
	if err != nil {
		return eventPage{}, err
	}
	return eventPage{after: int32(after), read: func(ctx context.Context) ([]promise.Event, error) {
		return h.Store.ListEvents(ctx, c.tenant, workflow, int32(after), int(limit))
	}}, nil
}
