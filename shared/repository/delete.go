package repository

import (
	"context"
	_ "embed" // the queries
	"errors"
	"time"

	"github.com/google/uuid"

	"github.com/flovyn/promises/shared/promise"
)

//go:embed queries/mark_deleted.sql
var markDeletedSQL string

//go:embed queries/delete_tenant.sql
var deleteTenantSQL string

//go:embed queries/find_deleted_tenant.sql
var findDeletedTenantSQL string

//go:embed queries/tenant_contents.sql
var tenantContentsSQL string

// TenantContents counts a tenant's rows of each kind, up to bound. A count of
// bound + 1 means that there are more.
func (r *Repository) TenantContents(ctx context.Context, slug string, bound int) (promise.Contents, error) {
	row, err := run[contentsRow](ctx, r, statement{op: "tenant contents", sql: tenantContentsSQL, args: []any{slug, bound}})
	return row.Contents, err
}

type contentsRow struct {
	noDeadline
	promise.Contents
}

// DeleteTenant deletes one batch of a suspended tenant's rows, with at most limit
// promises, and the tenant itself with the last batch. From the first call on, the
// tenant cannot be resumed. A concurrent call, or one after a call that was cut off,
// continues with the rows that are left. If the tenant is already deleted, Done is
// true. If the tenant is not suspended, the error is CodeForbidden.
func (r *Repository) DeleteTenant(ctx context.Context, slug string, limit int) (promise.Deletion, error) {
	for range attempts {
		row, err := run[deletionRow](ctx, r, statement{op: "delete tenant", sql: deleteTenantSQL, args: []any{slug, limit}})
		if err != nil {
			return promise.Deletion{}, err
		}
		if row.Done != nil {
			d := promise.Deletion{Deleted: row.deleted()}
			if !*row.Done {
				return d, nil
			}
			return r.deletedTenant(ctx, slug, d)
		}
		marked, err := run[markedRow](ctx, r, statement{op: "mark tenant deleted", sql: markDeletedSQL, args: []any{slug}})
		switch {
		case errors.Is(err, promise.ErrNotFound):
			return r.deletedTenant(ctx, slug, promise.Deletion{})
		case err != nil:
			return promise.Deletion{}, err
		case marked.DeletedAt == nil:
			return promise.Deletion{}, promise.Fail(promise.CodeForbidden, "Only a suspended tenant can be deleted. Suspend it first.")
		}
	}
	return promise.Deletion{}, contention(nil)
}

// deletedTenant completes the result for a tenant that is deleted.
func (r *Repository) deletedTenant(ctx context.Context, slug string, d promise.Deletion) (promise.Deletion, error) {
	row, err := run[deletedTenantRow](ctx, r, statement{op: "find deleted tenant", sql: findDeletedTenantSQL, args: []any{slug}})
	d.TenantID, d.Done, d.FreeAt = row.ID, err == nil, row.DeletedAt.Add(promise.SlugReuseDelay)
	return d, err
}

type deletionRow struct {
	noDeadline
	Promises, Keys, Events, Executions, APIKeys *int64
	Done                                        *bool
}

func (r deletionRow) deleted() promise.Contents {
	return promise.Contents{Promises: *r.Promises, Keys: *r.Keys, Events: *r.Events, Executions: *r.Executions, APIKeys: *r.APIKeys}
}

type markedRow struct {
	noDeadline
	ID        uuid.UUID
	DeletedAt *time.Time
}

type deletedTenantRow struct {
	noDeadline
	ID        uuid.UUID
	DeletedAt time.Time
}
