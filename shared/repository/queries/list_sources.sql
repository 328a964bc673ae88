-- Lists a tenant's sources by name.
--
-- Arguments: @tenant, a slug.
-- Returns: one row for each source; one row of NULLs if there is none; no row if the tenant is unknown or suspended.
-- Locks: none.
-- Indexes: tenant_slug_key, source_tenant_id_name_key.
SELECT
    s.id, s.name, s.version, s.definition, s.enabled, s.created_at, s.updated_at, s.last_received_at, s.last_verified_at, s.last_refused_at,
    s.last_refusal
FROM tenant t
LEFT JOIN source s ON s.tenant_id = t.id
WHERE t.slug = @tenant AND t.suspended_at IS NULL
ORDER BY s.name COLLATE "C"
