package repository

import (
	"context"
	_ "embed" // the queries
	"time"

	"github.com/google/uuid"
)

//go:embed queries/begin_wait.sql
var beginWaitSQL string

//go:embed queries/keep_wait.sql
var keepWaitSQL string

//go:embed queries/end_wait.sql
var endWaitSQL string

// BeginWait counts a call that waits, for the longest time that it may take. It
// reports false, and does not count the call, if as many calls of the tenant
// wait already as may wait at once: the tenant's own limit, or limit. EndWait
// removes the call. A call that nothing removes, because its process was
// killed, counts until that time is over.
func (r *Repository) BeginWait(ctx context.Context, tenant string, id uuid.UUID, longest time.Duration, limit int) (bool, error) {
	row, err := run[existsRow](ctx, r, statement{
		op: "begin wait", sql: beginWaitSQL, args: []any{tenant, id.String(), longest, limit},
	})
	return row.Exists, err
}

// KeepWait reports whether a call that BeginWait counted may wait on. Calls that
// begin at the same time do not see each other, so BeginWait may have counted too
// many: of those the calls beyond the limit must end. limit is as for BeginWait.
func (r *Repository) KeepWait(ctx context.Context, tenant string, id uuid.UUID, limit int) (bool, error) {
	row, err := run[existsRow](ctx, r, statement{op: "keep wait", sql: keepWaitSQL, args: []any{tenant, id.String(), limit}})
	return row.Exists, err
}

// EndWait removes a call that BeginWait counted.
func (r *Repository) EndWait(ctx context.Context, tenant string, id uuid.UUID) error {
	if _, err := r.db.Exec(ctx, endWaitSQL, tenant, id.String()); err != nil {
		return interpret("end wait", err)
	}
	return nil
}
