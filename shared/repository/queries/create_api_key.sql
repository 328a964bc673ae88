-- Creates an API key of a tenant.
--
-- Arguments: $1 slug, $2 name, $3 hash, $4 scopes, $5 the time at which it expires, or NULL.
-- Returns: its id and time; no row if the tenant is unknown or is being deleted.
-- Locks: the tenant's row FOR KEY SHARE, by the foreign key. Only the tenant's deletion conflicts with that.
-- Indexes: tenant_slug_key, api_key_hash_key.
INSERT INTO api_key (tenant_id, name, hash, scopes, expires_at)
SELECT id, $2::VARCHAR, $3::BYTEA, $4::VARCHAR[], $5::TIMESTAMPTZ FROM tenant WHERE slug = $1 AND deleted_at IS NULL
RETURNING id, created_at
