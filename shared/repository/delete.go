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
	return run(ctx, r, "tenant contents", tenantContentsSQL, named{"tenant": slug, "bound": bound}, one[promise.Contents])
}

// DeleteTenant deletes one batch of a suspended tenant's rows, with at most limit
// promises, and the tenant itself with the last batch. From the first call on, the
// tenant cannot be resumed. A concurrent call, or one after a call that was cut off,
// continues with the rows that are left. If the tenant is already deleted, Done is
// true. If the tenant is not suspended, the error is CodeForbidden.
func (r *Repository) DeleteTenant(ctx context.Context, slug string, limit int) (promise.Deletion, error) {
	row, err := r.deleteBatch(ctx, slug, limit)
	if err != nil {
		return promise.Deletion{}, err
	}
	if row.Done == nil { // the tenant is not marked as deleted yet
		marked, err := run(ctx, r, "mark tenant deleted", markDeletedSQL, named{"tenant": slug}, one[markedRow])
		switch {
		case errors.Is(err, promise.ErrNotFound):
			return r.deletedTenant(ctx, slug, promise.Deletion{})
		case err != nil:
			return promise.Deletion{}, err
		case marked.DeletedAt == nil:
			return promise.Deletion{}, promise.Fail(promise.CodeForbidden, "Only a suspended tenant can be deleted. Suspend it first.")
		}
		if row, err = r.deleteBatch(ctx, slug, limit); err != nil {
			return promise.Deletion{}, err
		}
	}
	switch {
	case row.Done == nil: // a concurrent call has just deleted the last batch
		return r.deletedTenant(ctx, slug, promise.Deletion{})
	case *row.Done:
		return r.deletedTenant(ctx, slug, promise.Deletion{Deleted: row.deleted()})
	}
	return promise.Deletion{Deleted: row.deleted()}, nil
}

func (r *Repository) deleteBatch(ctx context.Context, slug string, limit int) (deletionRow, error) {
	return run(ctx, r, "delete tenant", deleteTenantSQL, named{"tenant": slug, "limit": limit}, one[deletionRow])
}

// deletedTenant completes the result for a tenant that is deleted.
func (r *Repository) deletedTenant(ctx context.Context, slug string, d promise.Deletion) (promise.Deletion, error) {
	row, err := run(ctx, r, "find deleted tenant", findDeletedTenantSQL, named{"tenant": slug}, one[deletedTenantRow])
	d.TenantID, d.Done, d.FreeAt = row.ID, err == nil, row.DeletedAt.Add(promise.SlugReuseDelay)
	return d, err
}

type deletionRow struct {
	Promises, Keys, Events, Executions, APIKeys *int64
	Done                                        *bool
}

func (r deletionRow) deleted() promise.Contents {
	return promise.Contents{Promises: *r.Promises, Keys: *r.Keys, Events: *r.Events, Executions: *r.Executions, APIKeys: *r.APIKeys}
}

type markedRow struct {
	ID        uuid.UUID
	DeletedAt *time.Time
}

type deletedTenantRow struct {
	ID        uuid.UUID
	DeletedAt time.Time
}
