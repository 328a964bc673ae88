-- Sets the destination of promises that are created without targets.
--
-- Arguments: @tenant, a slug; @name, or NULL for none.
-- Returns: one row with the destination's kind, or NULL; no row if the tenant is unknown or suspended. A destination of a kind that takes a token does
-- not become the default.
-- Locks: the destination's row FOR SHARE, then its tenant's. So no call deletes the destination meanwhile.
-- Indexes: tenant_slug_key, idx_destination_name, tenant_pkey.
WITH t AS MATERIALIZED (
    SELECT id FROM tenant WHERE slug = @tenant AND suspended_at IS NULL
),
found AS MATERIALIZED (
    SELECT d.id, d.kind
    FROM t
    JOIN destination d ON d.tenant_id = t.id AND d.name = @name::VARCHAR AND d.deleted_at IS NULL
    FOR SHARE OF d
),
changed AS (
    UPDATE tenant x
    SET default_destination_id = (SELECT id FROM found)
    FROM t
    WHERE x.id = t.id AND (@name IS NULL OR EXISTS (SELECT FROM found WHERE kind NOT IN ('stepFunctions', 'durableExecution')))
)
SELECT (SELECT kind FROM found) AS kind FROM t
