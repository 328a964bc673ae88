-- For a key ($2) that names nothing: the promise behind it that nothing has settled, by what deadline, and whether that has
-- passed. $1 slug. No lock; idempotency_key_pkey, promise_pkey.
SELECT q.workflow_execution_id, q.timeout_at, COALESCE(q.timeout_at <= NOW(), FALSE) AS passed
FROM tenant t
JOIN idempotency_key k ON k.tenant_id = t.id AND k.key = $2::VARCHAR
JOIN promise q ON q.id = k.promise_id
WHERE t.slug = $1 AND NOT q.resolved
