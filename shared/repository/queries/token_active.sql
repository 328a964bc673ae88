-- Reports whether a promise token is still valid: its tenant exists and is not suspended, its promise exists, and its tokens were not
-- revoked after this one was issued. The API key that the token was made with may be revoked, but not together with its tokens.
--
-- Arguments: @tenant, a slug; @promise, an id; @revoked_at, the last revocation of the promise's tokens before this one was issued, or
-- NULL; @api_key that the token was made with, or NULL.
-- Returns: TRUE or FALSE.
-- Locks: none.
-- Indexes: tenant_slug_key, promise_pkey, api_key_pkey.
SELECT EXISTS (
    SELECT
    FROM tenant t
    JOIN promise p ON p.tenant_id = t.id
    WHERE t.slug = @tenant
      AND t.suspended_at IS NULL
      AND p.id = @promise::UUID
      AND p.tokens_revoked_at IS NOT DISTINCT FROM @revoked_at::TIMESTAMPTZ
      AND (@api_key::UUID IS NULL
          OR EXISTS (SELECT FROM api_key k WHERE k.id = @api_key AND k.tenant_id = t.id AND k.tokens_revoked_at IS NULL))
)
