-- Suspends a tenant or ends its suspension. A tenant that is being deleted stays suspended.
--
-- Arguments: @tenant, a slug; @suspended, TRUE to suspend it.
-- Returns: the tenant; no row if it is unknown.
-- Locks: the tenant's row.
-- Indexes: tenant_slug_key.
UPDATE tenant SET suspended_at = CASE WHEN @suspended::BOOLEAN OR deleted_at IS NOT NULL THEN COALESCE(suspended_at, NOW()) END WHERE slug = @tenant
RETURNING id, slug, suspended_at, deleted_at
