package repository

import (
	"context"
	_ "embed" // the queries
	"time"

	"github.com/google/uuid"

	"github.com/flovyn/promises/shared/promise"
)

//go:embed queries/create_tenant.sql
var createTenantSQL string

//go:embed queries/list_tenants.sql
var listTenantsSQL string

//go:embed queries/find_tenant.sql
var findTenantSQL string

//go:embed queries/suspend_tenant.sql
var suspendTenantSQL string

//go:embed queries/create_key.sql
var createKeySQL string

//go:embed queries/list_keys.sql
var listKeysSQL string

//go:embed queries/revoke_key.sql
var revokeKeySQL string

//go:embed queries/find_key.sql
var findKeySQL string

// CreateTenant creates a tenant; created is false where there was one of that
// slug, which stays as it is. CodeForbidden: a tenant of that slug is being
// deleted, or was deleted less than promise.SlugRest ago.
func (r *Repository) CreateTenant(ctx context.Context, slug string) (t promise.Tenant, created bool, err error) {
	for range attempts {
		row, err := runAll[createdTenantRow](ctx, r, statement{op: "create tenant", sql: createTenantSQL, args: []any{slug, promise.SlugReuseDelay}})
		if err != nil {
			return promise.Tenant{}, false, err
		}
		switch {
		case len(row) != 1: // another creation came in between
			continue
		case row[0].FreeAt != nil:
			return promise.Tenant{}, false, promise.Fail(promise.CodeForbidden,
				"A tenant of this slug was deleted. The slug is free again at "+row[0].FreeAt.UTC().Format(time.RFC3339)+".")
		case row[0].DeletedAt != nil:
			return promise.Tenant{}, false, errDeleting
		}
		return promise.Tenant{ID: *row[0].ID, Slug: slug}, row[0].Created, nil
	}
	return promise.Tenant{}, false, contention(nil)
}

type createdTenantRow struct {
	ID        *uuid.UUID
	Created   bool
	DeletedAt *time.Time
	FreeAt    *time.Time
}

var errDeleting = promise.Fail(promise.CodeForbidden, "The tenant is being deleted. Repeat delete-tenant until it is done.")

// ListTenants lists all tenants, by slug.
func (r *Repository) ListTenants(ctx context.Context) ([]promise.Tenant, error) {
	rows, err := runAll[tenantRow](ctx, r, statement{op: "list tenants", sql: listTenantsSQL})
	var tenants []promise.Tenant
	for _, row := range rows {
		tenants = append(tenants, row.tenant())
	}
	return tenants, err
}

// FindTenant finds a tenant, suspended or not.
func (r *Repository) FindTenant(ctx context.Context, slug string) (promise.Tenant, error) {
	row, err := run[tenantRow](ctx, r, statement{op: "find tenant", sql: findTenantSQL, args: []any{slug}})
	if err != nil {
		return promise.Tenant{}, err
	}
	return row.tenant(), nil
}

type tenantRow struct {
	never
	ID          uuid.UUID
	Slug        string
	SuspendedAt *time.Time
	DeletedAt   *time.Time
	Pending     *int64
	Held        *int64
	HeldBytes   *int64
	CountedAt   *time.Time
	Limits      map[string]int64 // those of its own
}

func (r tenantRow) tenant() promise.Tenant {
	t := promise.Tenant{
		ID: r.ID, Slug: r.Slug, SuspendedAt: r.SuspendedAt, DeletedAt: r.DeletedAt, Limits: promise.LimitsInForce(r.Limits),
	}
	if r.CountedAt != nil {
		t.Usage = &promise.Usage{Pending: *r.Pending, Early: *r.Held, EarlyBytes: *r.HeldBytes, CountedAt: *r.CountedAt}
	}
	return t
}

// SuspendTenant suspends a tenant: none of its credentials opens anything then.
// With suspended false it goes on as before; CodeForbidden: it is being deleted.
func (r *Repository) SuspendTenant(ctx context.Context, slug string, suspended bool) (promise.Tenant, error) {
	row, err := run[suspendedRow](ctx, r, statement{op: "suspend tenant", sql: suspendTenantSQL, args: []any{slug, suspended}})
	if err == nil && !suspended && row.DeletedAt != nil {
		err = errDeleting
	}
	return promise.Tenant{ID: row.ID, Slug: row.Slug, SuspendedAt: row.SuspendedAt, DeletedAt: row.DeletedAt}, err
}

type suspendedRow struct {
	never
	ID          uuid.UUID
	Slug        string
	SuspendedAt *time.Time
	DeletedAt   *time.Time
}

// CreateAPIKey keeps an API key of a tenant, by its hash. Its id and the time of
// its creation are the database's.
func (r *Repository) CreateAPIKey(ctx context.Context, k promise.APIKey) (promise.APIKey, error) {
	row, err := run[createdKeyRow](ctx, r, statement{
		op: "create key", sql: createKeySQL, args: []any{k.Tenant, k.Name, k.Hash, scopeTexts(k.Scopes), k.ExpiresAt},
	})
	if err != nil {
		return promise.APIKey{}, err
	}
	k.ID, k.CreatedAt = row.ID, row.CreatedAt
	return k, nil
}

type createdKeyRow struct {
	never
	ID        uuid.UUID
	CreatedAt time.Time
}

func scopeTexts(scopes []promise.Scope) []string {
	texts := make([]string, len(scopes))
	for i, s := range scopes {
		texts[i] = string(s)
	}
	return texts
}

// ListAPIKeys lists a tenant's API keys, revoked and expired ones too, oldest
// first, without their hashes.
func (r *Repository) ListAPIKeys(ctx context.Context, tenant string) ([]promise.APIKey, error) {
	rows, err := runAll[keyListRow](ctx, r, statement{op: "list keys", sql: listKeysSQL, args: []any{tenant}})
	if err == nil && len(rows) == 0 {
		err = promise.ErrNotFound
	}
	if err != nil {
		return nil, err
	}
	var keys []promise.APIKey
	for _, row := range rows {
		if row.ID != nil {
			keys = append(keys, promise.APIKey{
				ID: *row.ID, Tenant: tenant, Name: *row.Name, Scopes: row.Scopes, CreatedAt: *row.CreatedAt,
				ExpiresAt: row.ExpiresAt, RevokedAt: row.RevokedAt, TokensRevokedAt: row.TokensRevokedAt,
			})
		}
	}
	return keys, nil
}

type keyListRow struct {
	ID              *uuid.UUID
	Name            *string
	Scopes          []promise.Scope
	CreatedAt       *time.Time
	ExpiresAt       *time.Time
	RevokedAt       *time.Time
	TokensRevokedAt *time.Time
}

// RevokeAPIKey revokes a tenant's API key for ever and, with tokens, all promise
// tokens that the key asked for. It returns when each was revoked first;
// tokensRevokedAt is nil if the tokens are still valid.
func (r *Repository) RevokeAPIKey(
	ctx context.Context, tenant string, id uuid.UUID, tokens bool,
) (revokedAt time.Time, tokensRevokedAt *time.Time, err error) {
	row, err := run[revokedRow](ctx, r, statement{op: "revoke key", sql: revokeKeySQL, args: []any{tenant, id.String(), tokens}})
	return row.RevokedAt, row.TokensRevokedAt, err
}

type revokedRow struct {
	never
	RevokedAt       time.Time
	TokensRevokedAt *time.Time
}

// FindAPIKey finds an API key by its hash, whether or not it still opens anything.
func (r *Repository) FindAPIKey(ctx context.Context, hash []byte) (promise.APIKey, error) {
	row, err := run[foundKeyRow](ctx, r, statement{op: "find key", sql: findKeySQL, args: []any{hash}})
	return row.APIKey, err
}

type foundKeyRow struct {
	never
	promise.APIKey
}
