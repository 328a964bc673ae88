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

// WorkflowExecutionID derives the id of a tenant's workflow execution from its
// external id. The workflow execution need not exist. A process remembers a
// tenant's id for five minutes, and otherwise asks the database. If the database
// finds no such tenant, or a suspended one, the error is promise.ErrNotFound.
func (r *Repository) WorkflowExecutionID(ctx context.Context, tenant, externalID string) (uuid.UUID, error) {
	id, err := r.tenantID(ctx, tenant)
	if err != nil {
		return uuid.Nil, err
	}
	return promise.DeriveWorkflowExecutionID(id, externalID), nil
}

// tenantIDTTL bounds the time for which a process remembers a tenant's id. It is
// shorter than promise.SlugReuseDelay, for which the slug of a deleted tenant has no tenant.
const tenantIDTTL = 5 * time.Minute

type knownTenant struct {
	id    uuid.UUID
	until time.Time
}

func (r *Repository) tenantID(ctx context.Context, slug string) (uuid.UUID, error) {
	now := r.now()
	if known, ok := r.tenantIDs.Load(slug); ok && known.(knownTenant).until.After(now) {
		return known.(knownTenant).id, nil
	}
	row, err := run(ctx, r, "find tenant id", tenantIDSQL, named{"tenant": slug}, one[idRow])
	if err != nil {
		return uuid.Nil, err
	}
	r.tenantIDs.Store(slug, knownTenant{row.ID, now.Add(tenantIDTTL)})
	return row.ID, nil
}
