-- Deletes workflow executions that have no promises any more, with the rest of their event logs.
--
-- Arguments: @workflows, an array of workflow executions' ids.
-- Returns: the number of deleted rows, as the command's tag.
-- Locks: the workflow executions' rows, skipping locked ones. An execution is deleted only if its row is still as it was read: otherwise a
-- create has taken a number meanwhile.
-- Indexes: workflow_execution_pkey, idx_promise_workflow.
WITH empty AS MATERIALIZED (
    SELECT w.id, w.last_sequence_number
    FROM unnest(@workflows::TEXT[]) AS given (id)
    CROSS JOIN LATERAL (SELECT v.id, v.last_sequence_number FROM workflow_execution v WHERE v.id = given.id::UUID) AS w
    WHERE NOT EXISTS (SELECT FROM promise q WHERE q.workflow_execution_id = w.id)
),
locked AS MATERIALIZED (
    SELECT w.id
    FROM empty
    JOIN workflow_execution w ON w.id = empty.id AND w.last_sequence_number = empty.last_sequence_number
    FOR UPDATE OF w SKIP LOCKED
)
DELETE FROM workflow_execution w
USING locked
WHERE w.id = locked.id
