-- revoke_key
-- Revokes an API key ($2) of a tenant ($1 slug), for ever, and if $3 the promise tokens that it asked for. No row: there is none. Locks: the
-- key's row. api_key_pkey.
UPDATE api_key k
SET revoked_at = COALESCE(k.revoked_at, NOW()),
    tokens_revoked_at = CASE WHEN $3::BOOLEAN THEN COALESCE(k.tokens_revoked_at, NOW()) ELSE k.tokens_revoked_at END
FROM tenant t
WHERE t.slug = $1 AND k.tenant_id = t.id AND k.id = $2::UUID
RETURNING k.revoked_at, k.tokens_revoked_at
