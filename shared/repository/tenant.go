package repository

import (
	"context"
	_ "embed" // the queries
	"errors"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

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

//go:embed queries/create_api_key.sql
var createAPIKeySQL string

//go:embed queries/list_api_keys.sql
var listAPIKeysSQL string

//go:embed queries/revoke_api_key.sql
var revokeAPIKeySQL string

//go:embed queries/find_api_key.sql
var findAPIKeySQL string

// CreateTenant creates a tenant. If the slug has a tenant already, CreateTenant
// returns it unchanged, and created is false. The error is CodeForbidden if the
// slug's tenant is being deleted, or was deleted less than promise.SlugReuseDelay ago.
func (r *Repository) CreateTenant(ctx context.Context, slug string) (t promise.Tenant, created bool, err error) {
	row, err := run(ctx, r, "create tenant", createTenantSQL, named{
		"tenant": slug, "reuse_delay": promise.SlugReuseDelay,
	}, func(rows pgx.Rows, err error) (createdTenantRow, error) {
		row, err := one[createdTenantRow](rows, err)
		if errors.Is(err, pgx.ErrNoRows) { // a concurrent call created it
			err = errRaceLost
		}
		return row, err
	})
	switch {
	case err != nil:
		return promise.Tenant{}, false, err
	case row.FreeAt != nil:
		return promise.Tenant{}, false, promise.Fail(promise.CodeForbidden,
			"A tenant of this slug was deleted. The slug is available again at "+row.FreeAt.UTC().Format(time.RFC3339)+".")
	case row.DeletedAt != nil:
		return promise.Tenant{}, false, errDeleting
	}
	return promise.Tenant{ID: *row.ID, Slug: slug}, row.Created, nil
}

type createdTenantRow struct {
	ID        *uuid.UUID
	Created   bool
	DeletedAt *time.Time
	FreeAt    *time.Time
}

var errDeleting = promise.Fail(promise.CodeForbidden, "The tenant is being deleted. Repeat delete-tenant until done is true.")

// ListTenants lists all tenants in the order of their slugs.
func (r *Repository) ListTenants(ctx context.Context) ([]promise.Tenant, error) {
	rows, err := run(ctx, r, "list tenants", listTenantsSQL, named{}, all[tenantRow])
	var tenants []promise.Tenant
	for _, row := range rows {
		tenants = append(tenants, row.tenant())
	}
	return tenants, err
}

// FindTenant returns a tenant, suspended or not.
func (r *Repository) FindTenant(ctx context.Context, slug string) (promise.Tenant, error) {
	row, err := run(ctx, r, "find tenant", findTenantSQL, named{"tenant": slug}, one[tenantRow])
	if err != nil {
		return promise.Tenant{}, err
	}
	return row.tenant(), nil
}

type tenantRow struct {
	ID          uuid.UUID
	Slug        string
	SuspendedAt *time.Time
	DeletedAt   *time.Time
	Pending     *int64
	Early       *int64 `db:"held"`
	EarlyBytes  *int64 `db:"held_bytes"`
	CountedAt   *time.Time
	Limits      map[string]int64 // the tenant's own
}

func (r tenantRow) tenant() promise.Tenant {
	t := promise.Tenant{
		ID: r.ID, Slug: r.Slug, SuspendedAt: r.SuspendedAt, DeletedAt: r.DeletedAt, Limits: promise.LimitsInForce(r.Limits),
	}
	if r.CountedAt != nil {
		t.Usage = &promise.Usage{Pending: *r.Pending, Early: *r.Early, EarlyBytes: *r.EarlyBytes, CountedAt: *r.CountedAt}
	}
	return t
}

// SuspendTenant suspends a tenant, so that none of its credentials authorizes a
// call. If suspended is false, it resumes the tenant; the error is CodeForbidden if
// the tenant is being deleted.
func (r *Repository) SuspendTenant(ctx context.Context, slug string, suspended bool) (promise.Tenant, error) {
	row, err := run(ctx, r, "suspend tenant", suspendTenantSQL, named{"tenant": slug, "suspended": suspended}, one[suspendedRow])
	if err == nil && !suspended && row.DeletedAt != nil {
		err = errDeleting
	}
	return promise.Tenant{ID: row.ID, Slug: row.Slug, SuspendedAt: row.SuspendedAt, DeletedAt: row.DeletedAt}, err
}

type suspendedRow struct {
	ID          uuid.UUID
	Slug        string
	SuspendedAt *time.Time
	DeletedAt   *time.Time
}

// CreateAPIKey stores an API key of a tenant by its hash. The database sets its id
// and creation time.
func (r *Repository) CreateAPIKey(ctx context.Context, k promise.APIKey) (promise.APIKey, error) {
	row, err := run(ctx, r, "create API key", createAPIKeySQL, named{
		"tenant": k.Tenant, "name": k.Name, "hash": k.Hash, "scopes": scopeTexts(k.Scopes), "expires_at": k.ExpiresAt,
	}, one[createdAPIKeyRow])
	if err != nil {
		return promise.APIKey{}, err
	}
	k.ID, k.CreatedAt = row.ID, row.CreatedAt
	return k, nil
}

type createdAPIKeyRow struct {
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

// ListAPIKeys lists a tenant's API keys without their hashes, oldest first,
// including the revoked and expired ones.
func (r *Repository) ListAPIKeys(ctx context.Context, tenant string) ([]promise.APIKey, error) {
	rows, err := run(ctx, r, "list API keys", listAPIKeysSQL, named{"tenant": tenant}, all[apiKeyRow])
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

type apiKeyRow struct {
	ID              *uuid.UUID
	Name            *string
	Scopes          []promise.Scope
	CreatedAt       *time.Time
	ExpiresAt       *time.Time
	RevokedAt       *time.Time
	TokensRevokedAt *time.Time
}

// RevokeAPIKey revokes a tenant's API key permanently. If tokens is true, it also
// revokes all promise tokens that the key asked for. It returns the time of the
// first revocation of each. tokensRevokedAt is nil if the tokens are still valid.
func (r *Repository) RevokeAPIKey(
	ctx context.Context, tenant string, id uuid.UUID, tokens bool,
) (revokedAt time.Time, tokensRevokedAt *time.Time, err error) {
	row, err := run(ctx, r, "revoke API key", revokeAPIKeySQL, named{
		"tenant": tenant, "id": id.String(), "tokens": tokens,
	}, one[revokedRow])
	return row.RevokedAt, row.TokensRevokedAt, err
}

type revokedRow struct {
	RevokedAt       time.Time
	TokensRevokedAt *time.Time
}

// FindAPIKey returns the API key with that hash, even if it is revoked or expired.
func (r *Repository) FindAPIKey(ctx context.Context, hash []byte) (promise.APIKey, error) {
	return run(ctx, r, "find API key", findAPIKeySQL, named{"hash": hash}, one[promise.APIKey])
}
