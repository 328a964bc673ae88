-- Counts the promises of a workflow execution ($1 its id) that is full, and stores how many it may still get; $2 the service's own limit. No row:
-- something else changed that number meanwhile. Counts no further than the limit, without a lock: nothing is created while the execution is
-- full. Locks: the workflow execution's row, at the end. workflow_execution_pkey, and an index of promise on workflow_execution_id.
WITH seen AS MATERIALIZED (
    SELECT w.id, w.promises_left, COALESCE(t.max_workflow_promises, $2::INT) AS most
    FROM workflow_execution w
    JOIN tenant t ON t.id = w.tenant_id
    WHERE w.id = $1::UUID
)
UPDATE workflow_execution w
SET promises_left = seen.most
    - (SELECT COUNT(*) FROM (SELECT FROM promise p WHERE p.workflow_execution_id = seen.id LIMIT seen.most) AS counted)
FROM seen
WHERE w.id = seen.id AND w.promises_left IS NOT DISTINCT FROM seen.promises_left
RETURNING w.promises_left
