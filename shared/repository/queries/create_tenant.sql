-- Creates a tenant ($1 slug), or finds the one that there is, unless a tenant of that slug was deleted less than $2 ago: then free_at is
-- when the slug is free again, and id is NULL. One row.
-- Locks: nothing that anybody waits for but another creation of the same slug. tenant_slug_key, deleted_tenant_pkey.
WITH tombstone AS MATERIALIZED (
    SELECT deleted_at + $2::INTERVAL AS free_at FROM deleted_tenant WHERE slug = $1 AND deleted_at + $2::INTERVAL > NOW()
),
created AS (
    INSERT INTO tenant (slug)
    SELECT $1
    WHERE NOT EXISTS (SELECT FROM tombstone) AND NOT EXISTS (SELECT FROM tenant WHERE slug = $1) -- or it waits for a deletion, and misses the tombstone
    ON CONFLICT (slug) DO NOTHING
    RETURNING id
)
SELECT id, TRUE AS created, NULL::TIMESTAMPTZ AS deleted_at, NULL::TIMESTAMPTZ AS free_at FROM created
UNION ALL
SELECT id, FALSE, deleted_at, NULL FROM tenant WHERE slug = $1
UNION ALL
SELECT NULL, FALSE, NULL, free_at FROM tombstone
