-- Erases the contents of a settled promise.
--
-- Arguments: @tenant, a slug; @id or, if that is NULL, idempotency @key, looked up as in get.sql.
-- Returns: the promise after the erasure; a pending one unchanged. No row if the tenant has no such promise.
-- Locks, indexes: see promise_erase in migrations/functions.
SELECT
    p.id, p.workflow_execution_id, p.name, p.outcome, p.value, p.error, p.timeout_at, p.created_at, p.resolved_at,
    p.created_by_sequence, p.resolved_by_sequence, p.metadata, p.idempotency_key,
    p.timeout_outcome, p.timeout_value, p.timeout_error, p.settled_by_kind, p.settled_by_id, p.comment, p.erased_at,
    (SELECT w.external_id FROM workflow_execution w WHERE w.id = p.workflow_execution_id) AS external_id,
    CLOCK_TIMESTAMP() AS read_at
FROM promise_erase(tenant_slug => @tenant, given_id => @id, given_key => @key) AS p
WHERE p.id IS NOT NULL
