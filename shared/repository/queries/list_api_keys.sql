-- Lists a tenant's API keys, oldest first.
--
-- Arguments: @tenant, a slug.
-- Returns: one row for each API key; one row of NULLs if there is none; no row if the tenant is unknown.
-- Locks: none.
-- Indexes: idx_api_key_tenant.
SELECT k.id, k.name, k.scopes, k.created_at, k.expires_at, k.revoked_at, k.tokens_revoked_at
FROM tenant t
LEFT JOIN api_key k ON k.tenant_id = t.id
WHERE t.slug = @tenant
ORDER BY k.created_at, k.id
