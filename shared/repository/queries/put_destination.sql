-- Creates a destination, or changes the one that has the name. A destination's kind never changes.
--
-- Arguments: @tenant, a slug; @id of the destination, if the statement creates it; @name; @kind; @address, @mail_from, @region and @role_arn, each may
-- be NULL; @enabled, or NULL to keep the present state, which is TRUE for a new destination; @sealed, the first secret of a new destination, or NULL;
-- @limit, the largest number of the tenant's destinations.
-- Returns: one row; no row if the tenant is unknown or suspended. found_kind is the kind of the destination that had the name. id and the columns after
-- it are NULL if the kind is another one, if is_full is TRUE, and if a concurrent call has created or deleted the destination: then the caller retries.
-- Locks: the destination's row; its tenant's FOR KEY SHARE, by the foreign key.
-- Indexes: tenant_slug_key, idx_destination_name, destination_pkey.
WITH t AS MATERIALIZED (
    SELECT id, default_destination_id FROM tenant WHERE slug = @tenant AND suspended_at IS NULL
),
found AS MATERIALIZED (
    SELECT d.id, d.kind
    FROM t
    JOIN destination d ON d.tenant_id = t.id AND d.name = @name AND d.deleted_at IS NULL
),
counted AS MATERIALIZED (
    SELECT COUNT(*) >= @limit::INT AS is_full
    FROM t
    JOIN destination d ON d.tenant_id = t.id AND d.deleted_at IS NULL
),
created AS (
    INSERT INTO destination (id, tenant_id, name, kind, address, mail_from, region, role_arn, enabled)
    SELECT @id::UUID, t.id, @name, @kind, @address::VARCHAR, @mail_from::VARCHAR, @region::VARCHAR, @role_arn::VARCHAR, COALESCE(@enabled::BOOLEAN, TRUE)
    FROM t
    CROSS JOIN counted
    WHERE NOT EXISTS (SELECT FROM found) AND NOT counted.is_full
    ON CONFLICT (tenant_id, name) WHERE deleted_at IS NULL DO NOTHING
    RETURNING *
),
secret AS (
    INSERT INTO destination_secret (destination_id, version, sealed)
    SELECT id, 1, @sealed::BYTEA FROM created WHERE @sealed IS NOT NULL
),
changed AS (
    UPDATE destination d
    SET address = @address, mail_from = @mail_from, region = @region, role_arn = @role_arn, enabled = COALESCE(@enabled, d.enabled),
        disabled_because = CASE WHEN @enabled THEN NULL ELSE d.disabled_because END, updated_at = CLOCK_TIMESTAMP()
    FROM found
    WHERE d.id = found.id AND d.kind = @kind AND d.deleted_at IS NULL
    RETURNING d.*
)
SELECT
    (SELECT kind FROM found) AS found_kind, (SELECT is_full FROM counted) AS is_full, EXISTS (SELECT FROM created) AS created,
    s.id, s.name, s.kind, s.address, s.mail_from, s.region, s.role_arn, s.enabled, s.disabled_because, s.created_at, s.updated_at,
    (s.id = t.default_destination_id) IS TRUE AS is_default
FROM t
LEFT JOIN (SELECT * FROM created UNION ALL SELECT * FROM changed) AS s ON TRUE
