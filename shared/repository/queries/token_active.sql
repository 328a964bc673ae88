-- Reports whether a promise token is in force: its tenant ($1 slug) exists and is not suspended; its promise ($2) exists, and its tokens
-- were not revoked after this one was issued ($3 the last revocation before that, or NULL); and the API key that asked for the token
-- ($4, or NULL) was not revoked together with its tokens. No lock. promise_pkey, api_key_pkey.
SELECT EXISTS (
    SELECT
    FROM tenant t
    JOIN promise p ON p.tenant_id = t.id
    WHERE t.slug = $1
      AND t.suspended_at IS NULL
      AND p.id = $2::UUID
      AND p.tokens_revoked_at IS NOT DISTINCT FROM $3::TIMESTAMPTZ
      AND ($4::UUID IS NULL
          OR EXISTS (SELECT FROM api_key k WHERE k.id = $4 AND k.tenant_id = t.id AND k.tokens_revoked_at IS NULL))
)
