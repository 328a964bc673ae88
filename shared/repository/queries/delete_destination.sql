-- Deletes a destination: its name is free, its secrets are gone, and it is no longer the default. Its row stays while it has deliveries, and the relay
-- ends those with a reason.
--
-- Arguments: @tenant, a slug; @name.
-- Returns: one row with the destination's id, or NULL; no row if the tenant is unknown or suspended. deleted is FALSE if a concurrent call has changed
-- the destination, and may have added a secret that this statement does not see: then the caller retries.
-- Locks: the destination's row, then its secrets', then its tenant's.
-- Indexes: tenant_slug_key, idx_destination_name, destination_pkey, destination_secret_pkey.
WITH t AS MATERIALIZED (
    SELECT id FROM tenant WHERE slug = @tenant AND suspended_at IS NULL
),
found AS MATERIALIZED (
    SELECT d.id, d.updated_at
    FROM t
    JOIN destination d ON d.tenant_id = t.id AND d.name = @name AND d.deleted_at IS NULL
),
changed AS MATERIALIZED (
    UPDATE destination d
    SET deleted_at = NOW(), updated_at = CLOCK_TIMESTAMP()
    FROM found
    WHERE d.id = found.id AND d.updated_at = found.updated_at AND d.deleted_at IS NULL
    RETURNING d.id, d.tenant_id
),
secrets AS (
    DELETE FROM destination_secret s
    USING changed
    WHERE s.destination_id = changed.id
),
cleared AS (
    UPDATE tenant x
    SET default_destination_id = CASE WHEN x.default_destination_id = changed.id THEN NULL ELSE x.default_destination_id END
    FROM changed
    WHERE x.id = changed.tenant_id -- and not by the default's id: set_default_destination may have just changed it
)
SELECT (SELECT id FROM found) AS id, EXISTS (SELECT FROM changed) AS deleted FROM t
