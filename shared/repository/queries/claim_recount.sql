-- Claims the recount of a workflow execution's promises. One call a minute gets it.
--
-- Arguments: @workflow, the workflow execution's id.
-- Returns: its id; no row if another call claimed the recount within the last minute.
-- Locks: the workflow execution's row.
-- Indexes: workflow_execution_pkey.
UPDATE workflow_execution SET promises_counted_at = NOW()
WHERE id = @workflow::UUID AND (promises_counted_at IS NULL OR promises_counted_at < NOW() - INTERVAL '1 minute')
RETURNING id
