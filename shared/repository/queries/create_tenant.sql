-- Creates a tenant or finds the existing one. The slug of a tenant that was deleted less than @reuse_delay ago is reserved.
--
-- Arguments: @tenant, a slug; @reuse_delay, how long a deleted tenant's slug stays reserved.
-- Returns: one row. If the slug is reserved, id is NULL and free_at the time at which the reservation ends. No row if a concurrent call has just
-- created the tenant: the caller retries.
-- Locks: none that another statement waits for, except another creation of the same slug.
-- Indexes: tenant_slug_key, deleted_tenant_pkey.
WITH tombstone AS MATERIALIZED (
    SELECT deleted_at + @reuse_delay::INTERVAL AS free_at FROM deleted_tenant WHERE slug = @tenant AND deleted_at + @reuse_delay::INTERVAL > NOW()
),
created AS (
    INSERT INTO tenant (slug)
    SELECT @tenant
    WHERE NOT EXISTS (SELECT FROM tombstone)
      -- without this, the INSERT would wait for a running deletion and miss its tombstone
      AND NOT EXISTS (SELECT FROM tenant WHERE slug = @tenant)
    ON CONFLICT (slug) DO NOTHING
    RETURNING id
)
SELECT id, TRUE AS created, NULL::TIMESTAMPTZ AS deleted_at, NULL::TIMESTAMPTZ AS free_at FROM created
UNION ALL
SELECT id, FALSE, deleted_at, NULL FROM tenant WHERE slug = @tenant
UNION ALL
SELECT NULL, FALSE, NULL, free_at FROM tombstone
