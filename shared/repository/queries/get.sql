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
    p.timeout_outcome,
    p.timeout_value,
    p.timeout_error,
    p.settled_by_kind,
    p.settled_by_id,
    p.comment,
    CLOCK_TIMESTAMP() AS read_at
FROM tenant t
JOIN promise p ON p.tenant_id = t.id
WHERE t.slug = $1
  AND p.id = COALESCE($2::UUID, (
      SELECT k.promise_id
      FROM idempotency_key k
      JOIN promise q ON q.id = k.promise_id
      WHERE k.tenant_id = (SELECT id FROM tenant WHERE slug = $1)
        AND k.key = $3::VARCHAR
        AND (k.expires_at > NOW() OR NOT q.resolved AND (q.timeout_at IS NULL OR q.timeout_at > NOW()))
  ))
