-- Marks a suspended tenant ($1 slug) as one that is being deleted. One row: since when it is marked; NULL: it is not suspended. No row:
-- there is no such tenant. Locks: the tenant's row.
UPDATE tenant SET deleted_at = CASE WHEN suspended_at IS NOT NULL THEN COALESCE(deleted_at, NOW()) END WHERE slug = $1
RETURNING id, deleted_at
