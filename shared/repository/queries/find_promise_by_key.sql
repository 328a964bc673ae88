-- Finds the promise behind a live key ($2). $1 slug. No lock; idempotency_key_pkey finds it.
SELECT k.promise_id AS holder_id
FROM tenant t
JOIN idempotency_key k ON k.tenant_id = t.id AND k.key = $2::VARCHAR
JOIN promise q ON q.id = k.promise_id
WHERE t.slug = $1
  AND (k.expires_at > NOW() OR NOT q.resolved AND (q.timeout_at IS NULL OR q.timeout_at > NOW()))
