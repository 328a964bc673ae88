package repository

import (
	"context"
	_ "embed" // the queries
	"time"

	"github.com/google/uuid"

	"github.com/flovyn/promises/shared/promise"
)

//go:embed queries/list_deliveries.sql
var listDeliveriesSQL string

//go:embed queries/list_deliveries_of_promise.sql
var listDeliveriesOfPromiseSQL string

//go:embed queries/retry_delivery.sql
var retryDeliverySQL string

//go:embed queries/retry_dead_deliveries.sql
var retryDeadDeliveriesSQL string

// A deliveryRow is a delivery as a row, or as an object of get.sql's JSON array.
type deliveryRow struct {
	ID            uuid.UUID               `json:"id"`
	PromiseID     uuid.UUID               `json:"promise_id"`
	Destination   string                  `json:"destination"`
	Kind          promise.DestinationKind `json:"kind"`
	State         promise.DeliveryState   `json:"state"`
	Attempts      int                     `json:"attempts"`
	CreatedAt     time.Time               `json:"created_at"`
	DueAt         *time.Time              `json:"due_at"`
	LastAttemptAt *time.Time              `json:"last_attempt_at"`
	LastStatus    *int                    `json:"last_status"`
	LastError     *string                 `json:"last_error"`
	EndedAt       *time.Time              `json:"ended_at"`
	EndReason     *string                 `json:"end_reason"`
}

func deliveriesOf(rows []deliveryRow) []promise.Delivery {
	var deliveries []promise.Delivery
	for _, row := range rows {
		deliveries = append(deliveries, promise.Delivery(row))
	}
	return deliveries
}

// ListDeliveries lists the deliveries that match the filter, newest first, at most
// limit of them. more reports whether others follow. A promise or destination that is
// unknown, or belongs to another tenant, has no deliveries. If the filter is invalid,
// ListDeliveries returns the error of its Check.
//
// A page over all destinations reads up to a page of each destination and state.
func (r *Repository) ListDeliveries(
	ctx context.Context, tenant string, f promise.DeliveryFilter, limit int,
) (deliveries []promise.Delivery, more bool, err error) {
	if err := f.Check(); err != nil {
		return nil, false, err
	}
	sql := listDeliveriesSQL
	a := named{
		"tenant": tenant, "destination": f.Destination, "state": f.State, "after_at": nil, "after_id": nil, "limit": limit + 1,
	}
	if f.PromiseID != nil {
		sql, a["promise"] = listDeliveriesOfPromiseSQL, f.PromiseID.String()
	}
	if f.After != nil {
		a["after_at"], a["after_id"] = f.After.CreatedAt, f.After.ID.String()
	}
	rows, err := run(ctx, r, "list deliveries", sql, a, all[deliveryRow])
	if err != nil {
		return nil, false, err
	}
	if len(rows) == 0 {
		_, err := r.tenantID(ctx, tenant)
		return nil, false, err
	}
	return deliveriesOf(rows[:min(len(rows), limit)]), len(rows) > limit, nil
}

// RetryDelivery makes a delivery due now, as if no attempt had been made, and returns
// it. A due delivery that a relay is sending stays as it is, because the relay is at
// work for it. If the delivery cannot be sent again, the error is that of
// promise.CheckRetry, and nothing changes. A repeated call is harmless: the receiver
// knows the message by its id, which stays the same.
func (r *Repository) RetryDelivery(ctx context.Context, tenant string, id uuid.UUID) (promise.Delivery, error) {
	row, err := run(ctx, r, "retry delivery", retryDeliverySQL, named{"tenant": tenant, "id": id.String()}, one[retryRow])
	if err != nil {
		return promise.Delivery{}, err
	}
	d := promise.Delivery(row.deliveryRow)
	if !row.Retried {
		err = promise.CheckRetry(d, row.DestinationDeleted)
	}
	return d, err
}

type retryRow struct {
	deliveryRow
	DestinationDeleted bool
	Retried            bool
}

// RetryDeadDeliveries makes dead deliveries of a destination due now, oldest first, at
// most limit of them. more reports whether others may be dead still: the caller repeats
// the call. If the tenant has no such destination, the error is
// CodeUnknownDestination.
func (r *Repository) RetryDeadDeliveries(
	ctx context.Context, tenant, destination string, limit int,
) (retried int, more bool, err error) {
	row, err := run(ctx, r, "retry dead deliveries", retryDeadDeliveriesSQL, named{
		"tenant": tenant, "destination": destination, "limit": limit,
	}, one[retryDeadRow])
	switch {
	case err != nil:
		return 0, false, err
	case !row.Known:
		return 0, false, &promise.Error{
			Code: promise.CodeUnknownDestination, Field: "destination",
			Detail: "The tenant has no destination of this name. List the destinations to see their names.",
		}
	}
	return row.Retried, row.More, nil
}

type retryDeadRow struct {
	Known   bool
	Retried int
	More    bool
}
