package client

import (
	"context"
	"iter"
	"time"

	"github.com/google/uuid"
)

// A DeliveryState is the state of a delivery.
type DeliveryState string

// The states of a delivery.
const (
	DeliveryWaiting   DeliveryState = "waiting"   // the promise is pending
	DeliveryDue       DeliveryState = "due"       // an attempt is due, now or at DueAt
	DeliveryDelivered DeliveryState = "delivered" // the target has accepted it
	DeliveryGone      DeliveryState = "gone"      // no one waits any more: EndReason
	DeliveryDead      DeliveryState = "dead"      // all attempts failed, or none can succeed: LastError
)

// A Delivery notifies one target of a promise. Empty fields are absent.
type Delivery struct {
	DeliveryID    uuid.UUID     `json:"deliveryId"` // also the id of the message
	PromiseID     uuid.UUID     `json:"promiseId"`  // uuid.Nil in Promise.Deliveries
	Destination   string        `json:"destination"`
	Kind          string        `json:"kind"`
	State         DeliveryState `json:"state"`
	Attempts      int           `json:"attempts"`
	CreatedAt     time.Time     `json:"createdAt"`
	DueAt         time.Time     `json:"dueAt"`
	LastAttemptAt time.Time     `json:"lastAttemptAt"`
	LastStatus    int           `json:"lastStatus"`
	LastError     string        `json:"lastError"`
	EndedAt       time.Time     `json:"endedAt"`
	EndReason     string        `json:"endReason"`
}

// A DeliveryFilter selects deliveries. Zero fields select every delivery.
type DeliveryFilter struct {
	PromiseID   uuid.UUID
	Destination string
	State       DeliveryState
	PageSize    int // deliveries in one answer, 1 to 100; 0: 100
}

// Deliveries returns the deliveries that a filter selects, newest first, as List does.
func (c *Client) Deliveries(ctx context.Context, filter DeliveryFilter) iter.Seq2[Delivery, error] {
	var f fields
	if filter.PromiseID != uuid.Nil {
		f.text("promiseId", filter.PromiseID.String())
	}
	f.optional("destination", filter.Destination)
	f.optional("state", string(filter.State))
	return pages[Delivery](ctx, c, Request{Function: "list-deliveries", Path: "/deliveries", err: f.err}, "deliveries", f.list, filter.PageSize)
}

// RetryDelivery makes a delivery due now. It may be repeated, and then the receiver may get
// the message twice, with the same id. The error has CodeConflict if the promise is
// pending, or if no one waits for the delivery any more.
func (c *Client) RetryDelivery(ctx context.Context, deliveryID uuid.UUID) (Delivery, error) {
	id := deliveryID.String()
	var d Delivery
	err := c.call(ctx, Request{
		Function: "retry-deliveries", Method: "POST", Path: "/deliveries/" + id + "/retry", Target: []Field{{"deliveryId", quote(id)}},
	}, &d)
	return d, err
}

// RetryDeadDeliveries makes the dead deliveries of a destination due, at most 100, the
// oldest first. more reports that others may be dead still: call it again. It may be
// repeated, and retried then counts those of the last attempt alone.
func (c *Client) RetryDeadDeliveries(ctx context.Context, destination string) (retried int, more bool, err error) {
	var f fields
	f.text("destination", destination)
	f.text("state", string(DeliveryDead))
	var answer struct {
		Retried int
		More    bool
	}
	err = c.call(ctx, Request{Function: "retry-deliveries", Method: "POST", Path: "/deliveries/retry", Body: f.list, err: f.err}, &answer)
	return answer.Retried, answer.More, err
}
