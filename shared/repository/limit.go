package repository

import (
	"context"
	_ "embed" // the queries
	"encoding/json"
	"errors"
	"time"

	"github.com/google/uuid"

	"github.com/flovyn/promises/shared/promise"
)

//go:embed queries/set_limits.sql
var setLimitsSQL string

//go:embed queries/claim_recount.sql
var claimRecountSQL string

//go:embed queries/recount_workflow.sql
var recountWorkflowSQL string

//go:embed queries/uncounted_tenants.sql
var uncountedTenantsSQL string

//go:embed queries/count_pending.sql
var countPendingSQL string

//go:embed queries/count_early.sql
var countEarlySQL string

//go:embed queries/store_counts.sql
var storeCountsSQL string

// defaultOf returns the limit that applies to tenants without a limit of their own.
func defaultOf(name string) int64 {
	l, _ := promise.LimitOf(name)
	return l.Default
}

type idRow struct {
	ID uuid.UUID
}

// SetLimits sets limits of a tenant by name; nil restores the default. It does not
// change the limits that it is not given. A tenant that already has more than a
// limit allows keeps what it has, and gets no more.
func (r *Repository) SetLimits(ctx context.Context, slug string, limits map[string]*int64) (promise.Tenant, error) {
	wanted, err := json.Marshal(limits)
	if err != nil {
		return promise.Tenant{}, err
	}
	_, err = run(ctx, r, "set limits", setLimitsSQL, named{
		"tenant": slug, "limits": string(wanted), "default_pending": defaultOf(promise.LimitPending),
		"default_early": defaultOf(promise.LimitEarly), "default_early_bytes": defaultOf(promise.LimitEarlyBytes),
	}, one[idRow])
	if err != nil {
		return promise.Tenant{}, err
	}
	return r.FindTenant(ctx, slug)
}

// quotaExceeded returns the error for a call that has met a limit. For LimitEarly
// the last count decides whether the error names LimitEarly or LimitEarlyBytes.
func (r *Repository) quotaExceeded(ctx context.Context, tenant, name string) error {
	t, err := r.FindTenant(ctx, tenant)
	if err != nil {
		return err
	}
	if t.Usage == nil { // a limit of zero
		t.Usage = &promise.Usage{}
	}
	if name == promise.LimitEarly && t.Usage.Early < t.Limits[promise.LimitEarly] {
		name = promise.LimitEarlyBytes
	}
	return promise.QuotaExceeded(name, t.Limits[name])
}

type leftRow struct {
	PromisesLeft *int32
}

// recounted counts the promises of a full workflow execution again, at most once
// a minute, and reports whether the execution may have more. The execution may
// have room again, because retention deletes promises without changing its row,
// and because the limit may have changed. If recounted cannot count, it returns
// false.
func (r *Repository) recounted(ctx context.Context, workflowExecutionID uuid.UUID) bool {
	id := workflowExecutionID.String()
	if _, err := run(ctx, r, "claim recount", claimRecountSQL, named{"workflow": id}, one[idRow]); err != nil {
		return false
	}
	row, err := run(ctx, r, "recount workflow", recountWorkflowSQL, named{
		"workflow": id, "workflow_limit": defaultOf(promise.LimitWorkflowPromises),
	}, one[leftRow])
	return errors.Is(err, promise.ErrNotFound) || err == nil && row.PromisesLeft != nil && *row.PromisesLeft > 0
}

type uncountedRow struct {
	ID        uuid.UUID
	CountedAt time.Time
}

// Uncounted starts a count for each tenant.
func (r *Repository) Uncounted(ctx context.Context) ([]promise.Count, error) {
	rows, err := run(ctx, r, "uncounted tenants", uncountedTenantsSQL, named{}, all[uncountedRow])
	counts := make([]promise.Count, len(rows))
	for i, row := range rows {
		counts[i] = promise.Count{TenantID: row.ID, Usage: promise.Usage{CountedAt: row.CountedAt}}
	}
	return counts, err
}

type pendingCountRow struct {
	Counted   int64
	CreatedAt *time.Time
	ID        *uuid.UUID
}

type earlyCountRow struct {
	Counted int64
	Bytes   int64
	Key     *string
}

// CountMore continues the counts that are not done. It counts at most limit
// promises and limit early settlements of each tenant.
func (r *Repository) CountMore(ctx context.Context, counts []promise.Count, limit int) error {
	if err := r.countPending(ctx, counts, limit); err != nil {
		return err
	}
	return r.countEarly(ctx, counts, limit)
}

func (r *Repository) countPending(ctx context.Context, counts []promise.Count, limit int) error {
	var open []*promise.Count
	var tenants []string
	var ats []*time.Time
	var ids []*string
	for i := range counts {
		c := &counts[i]
		if c.PendingDone {
			continue
		}
		open, tenants = append(open, c), append(tenants, c.TenantID.String())
		var at *time.Time
		var id *string
		if after := c.PendingAfter; after != nil {
			at, id = &after.CreatedAt, nullIfEmpty(after.ID.String())
		}
		ats, ids = append(ats, at), append(ids, id)
	}
	if len(open) == 0 {
		return nil
	}
	rows, err := run(ctx, r, "count pending promises", countPendingSQL, named{
		"tenants": tenants, "created_ats": ats, "ids": ids, "limit": limit,
	}, all[pendingCountRow])
	for i, row := range rows {
		c := open[i]
		c.Pending += row.Counted
		c.PendingDone = row.Counted < int64(limit)
		if row.CreatedAt != nil {
			c.PendingAfter = &promise.Cursor{CreatedAt: *row.CreatedAt, ID: *row.ID}
		}
	}
	return err
}

func (r *Repository) countEarly(ctx context.Context, counts []promise.Count, limit int) error {
	var open []*promise.Count
	var tenants []string
	var keys []*string
	for i := range counts {
		if c := &counts[i]; !c.EarlyDone {
			open, tenants, keys = append(open, c), append(tenants, c.TenantID.String()), append(keys, c.EarlyAfter)
		}
	}
	if len(open) == 0 {
		return nil
	}
	rows, err := run(ctx, r, "count early settlements", countEarlySQL, named{
		"tenants": tenants, "keys": keys, "limit": limit,
	}, all[earlyCountRow])
	for i, row := range rows {
		c := open[i]
		c.Early += row.Counted
		c.EarlyBytes += row.Bytes
		c.EarlyDone = row.Counted < int64(limit)
		c.EarlyAfter = row.Key
	}
	return err
}

// StoreCounts stores counts that are done. It returns the tenants that have become
// full, or are no longer full.
func (r *Repository) StoreCounts(ctx context.Context, counts []promise.Count) ([]promise.Full, error) {
	n := len(counts)
	tenants, ats := make([]string, n), make([]time.Time, n)
	pending, early, bytes := make([]int64, n), make([]int64, n), make([]int64, n)
	for i, c := range counts {
		tenants[i], ats[i], pending[i], early[i], bytes[i] = c.TenantID.String(), c.CountedAt, c.Pending, c.Early, c.EarlyBytes
	}
	return run(ctx, r, "store counts", storeCountsSQL, named{
		"tenants": tenants, "counted_ats": ats, "pending": pending, "early": early, "early_bytes": bytes,
		"default_pending": defaultOf(promise.LimitPending), "default_early": defaultOf(promise.LimitEarly),
		"default_early_bytes": defaultOf(promise.LimitEarlyBytes),
	}, all[promise.Full])
}
