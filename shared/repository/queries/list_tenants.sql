-- Lists all tenants by slug. No lock.
SELECT id, slug, suspended_at FROM tenant ORDER BY slug
