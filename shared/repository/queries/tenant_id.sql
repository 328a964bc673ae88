-- Finds a tenant's id.
--
-- Arguments: $1 slug.
-- Returns: the id; no row if the tenant is unknown or suspended.
-- Locks: none.
-- Indexes: tenant_slug_key.
SELECT id FROM tenant WHERE slug = $1 AND suspended_at IS NULL
