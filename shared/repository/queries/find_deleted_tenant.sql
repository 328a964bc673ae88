-- Finds the tenant that had this slug and was deleted last.
--
-- Arguments: @tenant, a slug.
-- Returns: its id and the time of its deletion; no row if there is none.
-- Locks: none.
-- Indexes: deleted_tenant_pkey.
SELECT tenant_id AS id, deleted_at FROM deleted_tenant WHERE slug = @tenant
