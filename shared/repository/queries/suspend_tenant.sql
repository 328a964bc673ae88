-- Suspends a tenant ($1 slug), or lets it go on ($2 false). No row: there is none. Locks: the tenant's row.
UPDATE tenant SET suspended_at = CASE WHEN $2::BOOLEAN THEN COALESCE(suspended_at, NOW()) END WHERE slug = $1
RETURNING id, slug, suspended_at
