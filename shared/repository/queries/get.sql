-- Reads a promise.
--
-- Arguments: @tenant, a slug; @id or, if that is NULL, idempotency @key, which must still name its promise.
-- Returns: the promise, and its deliveries as a JSON array in the order of the targets, or NULL if it has no targets; no row if the tenant has
-- no such promise.
-- Locks: none.
-- Indexes: promise_pkey, idempotency_key_pkey, workflow_execution_pkey. If the promise has targets: delivery_promise_id_target_key,
-- destination_pkey.
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
    p.erased_at,
    (SELECT w.external_id FROM workflow_execution w WHERE w.id = p.workflow_execution_id) AS external_id,
    CASE WHEN p.notifies THEN (
        SELECT JSON_AGG(ROW_TO_JSON(shown) ORDER BY shown.target)
        FROM (
            SELECT
                v.target, v.id, v.promise_id, d.name AS destination, d.kind, v.state, v.attempts, v.created_at, v.due_at, v.last_attempt_at,
                v.last_status, v.last_error, v.ended_at, v.end_reason
            FROM delivery v
            JOIN destination d ON d.id = v.destination_id
            WHERE v.promise_id = p.id
        ) AS shown
    ) END AS deliveries,
    CLOCK_TIMESTAMP() AS read_at
FROM tenant t
JOIN promise p ON p.tenant_id = t.id
WHERE t.slug = @tenant AND t.suspended_at IS NULL
  AND p.id = COALESCE(@id::UUID, (
      SELECT k.promise_id
      FROM idempotency_key k
      JOIN promise q ON q.id = k.promise_id
      WHERE k.tenant_id = (SELECT id FROM tenant WHERE slug = @tenant)
        AND k.key = @key::VARCHAR
        AND promise_key_names(k.expires_at, q.resolved, q.resolved_at, q.timeout_at, NOW())
  ))
