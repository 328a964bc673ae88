-- Deletes a source with its secrets. Its receipts stay, and so do the early settlements that it has stored.
--
-- Arguments: @tenant, a slug; @name.
-- Returns: one row with the source's id, or NULL if there is none; no row if the tenant is unknown or suspended.
-- Locks: the source's row, then its secrets'.
-- Indexes: tenant_slug_key, source_tenant_id_name_key, source_secret_pkey.
WITH t AS MATERIALIZED (
    SELECT id FROM tenant WHERE slug = @tenant AND suspended_at IS NULL
),
deleted AS (
    DELETE FROM source s
    USING t
    WHERE s.tenant_id = t.id AND s.name = @name
    RETURNING s.id
)
SELECT deleted.id
FROM t
LEFT JOIN deleted ON TRUE
