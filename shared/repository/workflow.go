package repository

import (
	"context"
	_ "embed" // the queries
	"time"

	"github.com/google/uuid"

	"github.com/flovyn/promises/shared/promise"
)

//go:embed queries/tenant_id.sql
var tenantIDSQL string

// WorkflowExecutionID returns the id of the tenant's workflow execution with an
// external id, whether or not there is one. The first call of a process for a tenant
// takes one round trip, the others none for five minutes. An unknown or suspended
// tenant is promise.ErrNotFound.
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

// knownFor is how long a process remembers a tenant's id. The slug of a deleted
// tenant belongs to nobody for longer (promise.SlugRest).
const knownFor = 5 * time.Minute

type knownTenant struct {
	id    uuid.UUID
	until time.Time
}

func (r *Repository) tenantID(ctx context.Context, slug string) (uuid.UUID, error) {
	now := r.now()
	if known, ok := r.tenantIDs.Load(slug); ok && known.(knownTenant).until.After(now) {
		return known.(knownTenant).id, nil
	}
	row, err := run[tenantIDRow](ctx, r, statement{op: "tenant id", sql: tenantIDSQL, args: []any{slug}})
	if err != nil {
		return uuid.Nil, err
	}
	r.tenantIDs.Store(slug, knownTenant{row.ID, now.Add(knownFor)})
	return row.ID, nil
}
