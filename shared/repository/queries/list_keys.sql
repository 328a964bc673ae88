-- Lists a tenant's ($1 slug) API keys, oldest first; without any, one row of NULLs. No row: there is no such tenant.
-- No lock. idx_api_key_tenant.
SELECT k.id, k.name, k.scopes, k.created_at, k.expires_at, k.revoked_at, k.tokens_revoked_at
FROM tenant t
LEFT JOIN api_key k ON k.tenant_id = t.id
WHERE t.slug = $1
ORDER BY k.created_at, k.id
