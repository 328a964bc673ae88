-- Creates an API key of a tenant ($1 slug): $2 name, $3 hash, $4 scopes, $5 when it expires. No row: there is no such
-- tenant, or it is being deleted.
-- No lock that anybody waits for.
INSERT INTO api_key (tenant_id, name, hash, scopes, expires_at)
SELECT id, $2::VARCHAR, $3::BYTEA, $4::VARCHAR[], $5::TIMESTAMPTZ FROM tenant WHERE slug = $1 AND deleted_at IS NULL
RETURNING id, created_at
