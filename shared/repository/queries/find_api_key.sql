-- Finds an API key by its hash.
--
-- Arguments: @hash.
-- Returns: the API key and whether its tenant is suspended; no row if the hash is unknown.
-- Locks: none.
-- Indexes: api_key_hash_key.
SELECT k.id, t.slug AS tenant, k.name, k.hash, k.scopes, k.created_at, k.expires_at, k.revoked_at, k.tokens_revoked_at,
       t.suspended_at IS NOT NULL AS tenant_suspended
FROM api_key k
JOIN tenant t ON t.id = k.tenant_id
WHERE k.hash = @hash::BYTEA
