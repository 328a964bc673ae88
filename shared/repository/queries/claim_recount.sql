-- Claims the recount of a workflow execution's promises ($1 its id): one call gets it in a minute. No row: another call had it.
-- Locks: the workflow execution's row. workflow_execution_pkey.
UPDATE workflow_execution SET promises_counted_at = NOW()
WHERE id = $1::UUID AND (promises_counted_at IS NULL OR promises_counted_at < NOW() - INTERVAL '1 minute')
RETURNING id
