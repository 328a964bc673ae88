-- Reads a source with its active secrets, newest first.
--
-- Arguments: @tenant, a slug; @name.
-- Returns: one row, of NULLs if there is no such source; no row if the tenant is unknown or suspended. The arrays have one element for each secret.
-- Locks: none.
-- Indexes: tenant_slug_key, source_tenant_id_name_key, source_secret_pkey.
SELECT
    s.id, s.name, s.version, s.definition, s.enabled, s.created_at, s.updated_at, s.last_received_at, s.last_verified_at, s.last_refused_at,
    s.last_refusal, x.versions, x.sealed, x.created_ats, x.retire_ats
FROM tenant t
LEFT JOIN source s ON s.tenant_id = t.id AND s.name = @name
LEFT JOIN LATERAL (
    SELECT
        ARRAY_AGG(y.version ORDER BY y.version DESC) AS versions, ARRAY_AGG(y.sealed ORDER BY y.version DESC) AS sealed,
        ARRAY_AGG(y.created_at ORDER BY y.version DESC) AS created_ats, ARRAY_AGG(y.retire_at ORDER BY y.version DESC) AS retire_ats
    FROM source_secret y
    WHERE y.source_id = s.id AND (y.retire_at IS NULL OR y.retire_at > NOW())
) AS x ON TRUE
WHERE t.slug = @tenant AND t.suspended_at IS NULL
