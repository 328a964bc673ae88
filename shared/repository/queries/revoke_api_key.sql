-- Revokes an API key for ever, and on request the promise tokens that were made with it.
--
-- Arguments: @tenant, a slug; @id of the API key; @tokens, TRUE to revoke the tokens, too.
-- Returns: the times of both revocations; no row if the tenant has no such API key.
-- Locks: the API key's row.
-- Indexes: api_key_pkey.
UPDATE api_key k
SET revoked_at = COALESCE(k.revoked_at, NOW()),
    tokens_revoked_at = CASE WHEN @tokens::BOOLEAN THEN COALESCE(k.tokens_revoked_at, NOW()) ELSE k.tokens_revoked_at END
FROM tenant t
WHERE t.slug = @tenant AND k.tenant_id = t.id AND k.id = @id::UUID
RETURNING k.revoked_at, k.tokens_revoked_at
