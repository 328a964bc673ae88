-- Suspends a tenant or ends its suspension. A tenant that is being deleted stays suspended.
--
-- Arguments: $1 slug, $2 TRUE to suspend it.
-- Returns: the tenant; no row if it is unknown.
-- Locks: the tenant's row.
-- Indexes: tenant_slug_key.
UPDATE tenant SET suspended_at = CASE WHEN $2::BOOLEAN OR deleted_at IS NOT NULL THEN COALESCE(suspended_at, NOW()) END WHERE slug = $1
RETURNING id, slug, suspended_at, deleted_at
