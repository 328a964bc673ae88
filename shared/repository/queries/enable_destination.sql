-- Pauses a destination, or enables it. A destination that is enabled is no longer disabled by the service.
--
-- Arguments: @tenant, a slug; @name; @enabled.
-- Returns: one row, of NULLs if there is no such destination; no row if the tenant is unknown or suspended.
-- Locks: the destination's row.
-- Indexes: tenant_slug_key, idx_destination_name, destination_pkey.
WITH t AS MATERIALIZED (
    SELECT id, default_destination_id FROM tenant WHERE slug = @tenant AND suspended_at IS NULL
),
changed AS (
    UPDATE destination d
    SET enabled = @enabled::BOOLEAN, disabled_because = CASE WHEN @enabled THEN NULL ELSE d.disabled_because END, updated_at = CLOCK_TIMESTAMP()
    FROM t
    WHERE d.tenant_id = t.id AND d.name = @name AND d.deleted_at IS NULL
    RETURNING d.*
)
SELECT
    c.id, c.name, c.kind, c.address, c.mail_from, c.region, c.role_arn, c.enabled, c.disabled_because, c.created_at, c.updated_at,
    (c.id = t.default_destination_id) IS TRUE AS is_default
FROM t
LEFT JOIN changed c ON TRUE
