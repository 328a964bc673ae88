package repository

import (
	"context"
	_ "embed" // the queries
	"time"

	"github.com/flovyn/promises/shared/promise"
)

//go:embed queries/expire.sql
var expireSQL string

//go:embed queries/delete_expired_holds.sql
var deleteExpiredHoldsSQL string

//go:embed queries/delete_settled.sql
var deleteSettledSQL string

type expiredRow struct {
	never
	promise.Expired
}

// Expire records at most limit deadlines that have passed, of all tenants,
// oldest first, and appends their PROMISE_TIMEOUT events. It waits for nobody:
// what somebody else has in hand is left for the next call. Many may run at
// once.
func (r *Repository) Expire(ctx context.Context, limit int) (promise.Expired, error) {
	row, err := run[expiredRow](ctx, r, statement{op: "expire", sql: expireSQL, args: []any{limit}})
	return row.Expired, err
}

// DeleteExpiredHolds deletes at most limit settlements that were held for a
// promise which did not come in time, of all tenants, oldest first, and returns
// whose they were. Fewer than limit mean that none is left, or that somebody
// else has them in hand.
func (r *Repository) DeleteExpiredHolds(ctx context.Context, limit int) ([]promise.Hold, error) {
	return runAll[promise.Hold](ctx, r, statement{op: "delete expired holds", sql: deleteExpiredHoldsSQL, args: []any{limit}})
}

type deletedRow struct {
	never
	promise.Deleted
}

// DeleteSettled deletes at most limit promises of all tenants that were both
// created and settled longer than age ago, with their keys and events, and the
// workflow executions that this leaves empty. Fewer than limit mean that none is
// left, or that somebody else has them in hand.
func (r *Repository) DeleteSettled(ctx context.Context, age time.Duration, limit int) (promise.Deleted, error) {
	row, err := run[deletedRow](ctx, r, statement{op: "delete settled", sql: deleteSettledSQL, args: []any{age, limit}})
	return row.Deleted, err
}
