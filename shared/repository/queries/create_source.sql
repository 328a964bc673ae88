-- Creates a source, and perhaps its first secret.
--
-- Arguments: @tenant, a slug; @id; @name; @definition; @enabled; @sealed, the first secret, or NULL; @limit, the largest number of the tenant's
-- sources.
-- Returns: one row; no row if the tenant is unknown or suspended. id and created_at are NULL if is_full is TRUE, and if the name has a source: then the
-- caller retries.
-- Locks: the source's row; its tenant's FOR KEY SHARE, by the foreign key.
-- Indexes: tenant_slug_key, source_tenant_id_name_key.
WITH t AS MATERIALIZED (
    SELECT id FROM tenant WHERE slug = @tenant AND suspended_at IS NULL
),
counted AS MATERIALIZED (
    SELECT COUNT(*) >= @limit::INT AS is_full
    FROM t
    JOIN source s ON s.tenant_id = t.id
),
created AS (
    INSERT INTO source (id, tenant_id, name, definition, enabled)
    SELECT @id::UUID, t.id, @name, @definition, @enabled::BOOLEAN
    FROM t
    CROSS JOIN counted
    WHERE NOT counted.is_full
    ON CONFLICT (tenant_id, name) DO NOTHING
    RETURNING id, created_at
),
secret AS (
    INSERT INTO source_secret (source_id, version, sealed)
    SELECT id, 1, @sealed::BYTEA FROM created WHERE @sealed IS NOT NULL
)
SELECT c.id, c.created_at, (SELECT is_full FROM counted) AS is_full
FROM t
LEFT JOIN created c ON TRUE
