-- Revokes all tokens of a promise that were issued until now. Each revocation has a time of its own.
--
-- Arguments: @tenant, a slug; @id or, if that is NULL, idempotency @key, looked up as in get.sql.
-- Returns: the promise's id and the time; no row if the tenant has no such promise.
-- Locks: the promise's row alone. It waits for a running settlement, and keeps the columns that the settlement wrote.
-- Indexes: promise_pkey, idempotency_key_pkey.
UPDATE promise p
SET tokens_revoked_at = GREATEST(CLOCK_TIMESTAMP(), p.tokens_revoked_at + INTERVAL '1 microsecond')
FROM tenant t
WHERE t.slug = @tenant AND t.suspended_at IS NULL
  AND p.tenant_id = t.id
  AND p.id = COALESCE(@id::UUID, (
      SELECT k.promise_id
      FROM idempotency_key k
      JOIN promise q ON q.id = k.promise_id
      WHERE k.tenant_id = (SELECT id FROM tenant WHERE slug = @tenant)
        AND k.key = @key::VARCHAR
        AND promise_key_names(k.expires_at, q.resolved, q.resolved_at, q.timeout_at, NOW())
  ))
RETURNING p.id AS promise_id, p.tokens_revoked_at
