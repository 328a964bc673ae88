package repository

import (
	"context"
	_ "embed" // the queries

	"github.com/google/uuid"

	"github.com/flovyn/promises/shared/promise"
)

//go:embed queries/tenant_id.sql
var tenantIDSQL string

// WorkflowExecutionID returns the id of the tenant's workflow execution with an
// external id, whether or not there is one. The first call of a process for a tenant
// takes one round trip, the others none. An unknown tenant is promise.ErrNotFound.
func (r *Repository) WorkflowExecutionID(ctx context.Context, tenant, externalID string) (uuid.UUID, error) {
	id, err := r.tenantID(ctx, tenant)
	if err != nil {
		return uuid.Nil, err
	}
	return promise.DeriveWorkflowExecutionID(id, externalID), nil
}

type tenantIDRow struct {
	never
	ID uuid.UUID
}

// tenantID keeps the ids that it has found: a tenant's id never changes.
func (r *Repository) tenantID(ctx context.Context, slug string) (uuid.UUID, error) {
	if id, ok := r.tenantIDs.Load(slug); ok {
		return id.(uuid.UUID), nil
	}
	row, err := run[tenantIDRow](ctx, r, statement{op: "tenant id", sql: tenantIDSQL, args: []any{slug}})
	if err != nil {
		return uuid.Nil, err
	}
	r.tenantIDs.Store(slug, row.ID)
	return row.ID, nil
}
