-- Lists a tenant's destinations by name.
--
-- Arguments: @tenant, a slug.
-- Returns: one row for each destination; one row of NULLs if there is none; no row if the tenant is unknown or suspended.
-- Locks: none.
-- Indexes: tenant_slug_key, idx_destination_name.
SELECT
    d.id, d.name, d.kind, d.address, d.mail_from, d.region, d.role_arn, d.enabled, d.disabled_because, d.created_at, d.updated_at,
    (d.id = t.default_destination_id) IS TRUE AS is_default
FROM tenant t
LEFT JOIN destination d ON d.tenant_id = t.id AND d.deleted_at IS NULL
WHERE t.slug = @tenant AND t.suspended_at IS NULL
ORDER BY d.name COLLATE "C"
