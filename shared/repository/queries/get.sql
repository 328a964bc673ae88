-- Reads a promise, by id ($2) or, where that is NULL, by idempotency key ($3). $1 slug. No lock.
-- A key is found while its time runs or its promise is pending. Primary keys only: promise_pkey, idempotency_key_pkey.
SELECT
    p.id,
    p.workflow_execution_id,
    p.name,
    p.outcome,
    p.value,
    p.error,
    p.timeout_at,
    p.created_at,
    p.resolved_at,
    p.created_by_sequence,
    p.resolved_by_sequence,
    p.metadata,
    p.idempotency_key,
    NOW() AS read_at
FROM promise p
JOIN workflow_execution w ON w.id = p.workflow_execution_id
JOIN tenant t ON t.id = w.tenant_id
WHERE t.slug = $1
  AND p.id = COALESCE($2::UUID, (
      SELECT k.promise_id
      FROM idempotency_key k
      JOIN promise q ON q.id = k.promise_id
      WHERE k.tenant_id = (SELECT id FROM tenant WHERE slug = $1)
        AND k.key = $3::VARCHAR
        AND (k.expires_at > NOW() OR NOT q.resolved AND (q.timeout_at IS NULL OR q.timeout_at > NOW()))
  ))
