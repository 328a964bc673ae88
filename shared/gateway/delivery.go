package gateway

import (
	"context"
	"net/http"
	"slices"

	"github.com/flovyn/promises/shared/promise"
)

func listDeliveries(ctx context.Context, h *Handler, c *call) (answer, error) {
	limit, err := c.parameters.integer("limit", maxPage, 1, maxPage)
	if err != nil {
		return answer{}, err
	}
	filter, err := readDeliveryFilter(c.parameters)
	if err != nil {
		return answer{}, err
	}
	deliveries, more, err := h.Store.ListDeliveries(ctx, c.tenant, filter, int(limit))
	if err != nil {
		return answer{}, err
	}
	if len(deliveries) == 0 {
		if err := h.suspended(ctx, c); err != nil {
			return answer{}, err
		}
	}
	return answer{status: http.StatusOK, body: encodeDeliveries(c.principal, deliveries, more, filter)}, nil
}

func readDeliveryFilter(p parameters) (f promise.DeliveryFilter, err error) {
	texts := map[string]string{}
	for _, name := range []string{"promiseId", "destination", "state", "cursor"} {
		s, err := p.text(name)
		if err != nil {
			return f, err
		}
		if s != nil {
			texts[name] = *s
		}
	}
	if s, ok := texts["promiseId"]; ok {
		id, err := promise.ParseID(s)
		if err != nil {
			return f, within("promiseId", err)
		}
		f.PromiseID = &id
	}
	if s, ok := texts["destination"]; ok {
		if err := promise.CheckDestinationName(s); err != nil {
			return f, within("destination", err)
		}
		f.Destination = &s
	}
	if s, ok := texts["state"]; ok {
		state := promise.DeliveryState(s)
		if !slices.Contains(promise.DeliveryStates, state) {
			return f, fieldError("state", promise.CodeInvalidParameter, "state must be waiting, due, delivered, gone or dead.")
		}
		f.State = &state
	}
	if s, ok := texts["cursor"]; ok {
		cursor, err := promise.ParseCursor(s)
		if err != nil {
			return f, within("cursor", err)
		}
		f.After = &cursor
	}
	return f, f.Check()
}

// retryDeliveries makes the delivery that the call names due again, or the dead
// deliveries of a destination.
func retryDeliveries(ctx context.Context, h *Handler, c *call) (answer, error) {
	_, named := c.body.get("destination")
	_, stated := c.body.get("state")
	switch {
	case c.delivery == nil:
		return h.retryMany(ctx, c)
	case named || stated:
		return answer{}, fieldError("deliveryId", promise.CodeDuplicateField, "Send deliveryId, or destination and state, not both.")
	}
	d, err := h.Store.RetryDelivery(ctx, c.tenant, *c.delivery)
	if err != nil {
		return answer{}, err
	}
	return answer{status: http.StatusAccepted, body: encode(toDeliveryJSON(c.principal, d))}, nil
}

type retriedJSON struct {
	Retried int  `json:"retried"`
	More    bool `json:"more"`
}

func (h *Handler) retryMany(ctx context.Context, c *call) (answer, error) {
	destination, err := c.body.requiredText("destination")
	if err != nil {
		return answer{}, err
	}
	if err := promise.CheckDestinationName(destination); err != nil {
		return answer{}, within("destination", err)
	}
	state, err := c.body.requiredText("state")
	if err != nil {
		return answer{}, err
	}
	if state != string(promise.DeliveryDead) {
		return answer{}, fieldError("state", promise.CodeOutOfRange, "state must be dead: only dead deliveries are repeated many at once.")
	}
	retried, more, err := h.Store.RetryDeadDeliveries(ctx, c.tenant, destination, promise.MaxRetries)
	if err != nil {
		return answer{}, err
	}
	return answer{status: http.StatusAccepted, body: encode(retriedJSON{retried, more})}, nil
}
