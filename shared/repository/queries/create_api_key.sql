-- Creates an API key of a tenant.
--
-- Arguments: @tenant, a slug; @name; @hash; @scopes; @expires_at, or NULL.
-- Returns: its id and time; no row if the tenant is unknown or is being deleted.
-- Locks: the tenant's row FOR KEY SHARE, by the foreign key. Only the tenant's deletion conflicts with that.
-- Indexes: tenant_slug_key, api_key_hash_key.
INSERT INTO api_key (tenant_id, name, hash, scopes, expires_at)
SELECT id, @name::VARCHAR, @hash::BYTEA, @scopes::VARCHAR[], @expires_at::TIMESTAMPTZ FROM tenant WHERE slug = @tenant AND deleted_at IS NULL
RETURNING id, created_at
