package repository

import (
	"context"
	_ "embed" // the queries
	"time"
)

//go:embed queries/expire.sql
var expireSQL string

//go:embed queries/delete_expired_holds.sql
var deleteExpiredHoldsSQL string

//go:embed queries/delete_settled.sql
var deleteSettledSQL string

// Expired is what Expire has done.
type Expired struct {
	never
	Expired  int            // how many deadlines it has recorded
	Lateness time.Duration  // how long ago the oldest of them was
	Next     *time.Duration // until the next deadline that is still to come; nil: there is none
}

// Expire records at most limit deadlines that have passed, of all tenants,
// oldest first, and appends their PROMISE_TIMEOUT events. It waits for nobody:
// what somebody else has in hand is left for the next call. Many may run at
// once.
func (r *Repository) Expire(ctx context.Context, limit int) (Expired, error) {
	return run[Expired](ctx, r, statement{op: "expire", sql: expireSQL, args: []any{limit}})
}

// Hold names a settlement that was held.
type Hold struct{ Tenant, Key string }

// DeleteExpiredHolds deletes at most limit settlements that were held for a
// promise which did not come in time, of all tenants, oldest first, and returns
// whose they were.
func (r *Repository) DeleteExpiredHolds(ctx context.Context, limit int) ([]Hold, error) {
	return runAll[Hold](ctx, r, statement{op: "delete expired holds", sql: deleteExpiredHoldsSQL, args: []any{limit}})
}

// Deleted is what DeleteSettled has deleted.
type Deleted struct {
	never
	Promises, Keys, Events, Workflows int
}

// DeleteSettled deletes at most limit promises of all tenants that were both
// created and settled longer than age ago, with their keys and events, and the
// workflow executions that this leaves empty. Fewer than limit mean that none is
// left, or that somebody else has them in hand.
func (r *Repository) DeleteSettled(ctx context.Context, age time.Duration, limit int) (Deleted, error) {
	return run[Deleted](ctx, r, statement{op: "delete settled", sql: deleteSettledSQL, args: []any{age, limit}})
}
