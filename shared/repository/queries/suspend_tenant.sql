-- Suspends a tenant ($1 slug), or lets it go on ($2 false). One that is being deleted stays suspended. No row: there is none.
-- Locks: the tenant's row.
UPDATE tenant SET suspended_at = CASE WHEN $2::BOOLEAN OR deleted_at IS NOT NULL THEN COALESCE(suspended_at, NOW()) END WHERE slug = $1
RETURNING id, slug, suspended_at, deleted_at
