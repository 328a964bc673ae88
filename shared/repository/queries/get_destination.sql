-- Reads a destination with its active secrets, newest first.
--
-- Arguments: @tenant, a slug; @name.
-- Returns: one row, of NULLs if there is no such destination; no row if the tenant is unknown or suspended. The arrays have one element for each secret.
-- Locks: none.
-- Indexes: tenant_slug_key, idx_destination_name, destination_secret_pkey.
SELECT
    d.id, d.name, d.kind, d.address, d.mail_from, d.region, d.role_arn, d.enabled, d.disabled_because, d.created_at, d.updated_at,
    (d.id = t.default_destination_id) IS TRUE AS is_default, s.versions, s.sealed, s.created_ats, s.retire_ats
FROM tenant t
LEFT JOIN destination d ON d.tenant_id = t.id AND d.name = @name AND d.deleted_at IS NULL
LEFT JOIN LATERAL (
    SELECT
        ARRAY_AGG(x.version ORDER BY x.version DESC) AS versions, ARRAY_AGG(x.sealed ORDER BY x.version DESC) AS sealed,
        ARRAY_AGG(x.created_at ORDER BY x.version DESC) AS created_ats, ARRAY_AGG(x.retire_at ORDER BY x.version DESC) AS retire_ats
    FROM destination_secret x
    WHERE x.destination_id = d.id AND (x.retire_at IS NULL OR x.retire_at > NOW())
) AS s ON TRUE
WHERE t.slug = @tenant AND t.suspended_at IS NULL
