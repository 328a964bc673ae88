-- Finds a tenant's id.
--
-- Arguments: @tenant, a slug.
-- Returns: the id; no row if the tenant is unknown or suspended.
-- Locks: none.
-- Indexes: tenant_slug_key.
SELECT id FROM tenant WHERE slug = @tenant AND suspended_at IS NULL
