-- Reads a promise by its workflow execution and name.
--
-- Arguments: @tenant, a slug; @workflow, the workflow execution's id; @name.
-- Returns: the promise; no row if the tenant has no such promise.
-- Locks: none.
-- Indexes: promise_workflow_execution_id_name_key, workflow_execution_pkey.
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
    CLOCK_TIMESTAMP() AS read_at
FROM tenant t
JOIN promise p ON p.tenant_id = t.id
WHERE t.slug = @tenant AND t.suspended_at IS NULL
  AND p.workflow_execution_id = @workflow::UUID
  AND p.name = @name::VARCHAR
