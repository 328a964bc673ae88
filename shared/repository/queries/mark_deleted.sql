-- Marks a suspended tenant as being deleted.
--
-- Arguments: @tenant, a slug.
-- Returns: the time of the mark, or NULL if the tenant is not suspended; no row if it is unknown.
-- Locks: the tenant's row.
-- Indexes: tenant_slug_key.
UPDATE tenant SET deleted_at = CASE WHEN suspended_at IS NOT NULL THEN COALESCE(deleted_at, NOW()) END WHERE slug = @tenant
RETURNING id, deleted_at
