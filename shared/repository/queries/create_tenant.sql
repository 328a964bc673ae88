-- Creates a tenant ($1 slug), or finds the one that there is. One row.
-- Locks: nothing that anybody waits for but another creation of the same slug. tenant_slug_key.
WITH created AS (
    INSERT INTO tenant (slug) VALUES ($1) ON CONFLICT (slug) DO NOTHING RETURNING id
)
SELECT id, TRUE AS created FROM created
UNION ALL
SELECT id, FALSE FROM tenant WHERE slug = $1
