-- Finds the promise that an idempotency key names.
--
-- Arguments: @tenant, a slug; @key.
-- Returns: the promise's id; no row if the key names none.
-- Locks: none.
-- Indexes: idempotency_key_pkey, promise_pkey.
SELECT k.promise_id AS holder_id
FROM tenant t
JOIN idempotency_key k ON k.tenant_id = t.id AND k.key = @key::VARCHAR
JOIN promise q ON q.id = k.promise_id
WHERE t.slug = @tenant AND t.suspended_at IS NULL
  AND promise_key_names(k.expires_at, q.resolved, q.resolved_at, q.timeout_at, NOW())
