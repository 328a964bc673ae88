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

// BeginWait counts a waiting call until EndWait removes it, at most for longest: a
// killed process removes no call. If the tenant already has as many waiting calls
// as its own limit allows, or limit if it has none, BeginWait does not count the
// call and returns false.
func (r *Repository) BeginWait(ctx context.Context, tenant string, id uuid.UUID, longest time.Duration, limit int) (bool, error) {
	row, err := run(ctx, r, "begin wait", beginWaitSQL, named{
		"tenant": tenant, "id": id.String(), "longest": longest, "bound": limit,
	}, one[existsRow])
	return row.Exists, err
}

// KeepWait reports whether a call that BeginWait counted may go on waiting.
// Concurrent BeginWaits do not see each other and may count more calls than the
// limit. KeepWait then returns false for the calls beyond it. limit is as for
// BeginWait.
func (r *Repository) KeepWait(ctx context.Context, tenant string, id uuid.UUID, limit int) (bool, error) {
	row, err := run(ctx, r, "keep wait", keepWaitSQL, named{"tenant": tenant, "id": id.String(), "bound": limit}, one[existsRow])
	return row.Exists, err
}

// EndWait removes a call that BeginWait counted.
func (r *Repository) EndWait(ctx context.Context, tenant string, id uuid.UUID) error {
	_, err := r.db.Exec(ctx, endWaitSQL, named{"tenant": tenant, "id": id.String()})
	return interpret("end wait", err)
}
