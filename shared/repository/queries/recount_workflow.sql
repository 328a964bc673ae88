-- Counts the promises of a full workflow execution and stores how many it may still get. It counts no further than the limit, and without a
-- lock, because nothing is created while the execution is full.
--
-- Arguments: @workflow, the workflow execution's id; @workflow_limit, used if the tenant has no limit of its own.
-- Returns: the number that it may still get; no row if another transaction has changed that number meanwhile.
-- Locks: the workflow execution's row, at the end.
-- Indexes: workflow_execution_pkey, and an index of promise on workflow_execution_id.
WITH seen AS MATERIALIZED (
    SELECT w.id, w.promises_left, COALESCE(t.max_workflow_promises, @workflow_limit::INT) AS most
    FROM workflow_execution w
    JOIN tenant t ON t.id = w.tenant_id
    WHERE w.id = @workflow::UUID
)
UPDATE workflow_execution w
SET promises_left = seen.most
    - (SELECT COUNT(*) FROM (SELECT FROM promise p WHERE p.workflow_execution_id = seen.id LIMIT seen.most) AS counted)
FROM seen
WHERE w.id = seen.id AND w.promises_left IS NOT DISTINCT FROM seen.promises_left
RETURNING w.promises_left
