-- Waits until no settlement or extension that may still be in time for these deadlines is running. Rows that are read afterwards and are
-- past those deadlines do not change any more.
--
-- Arguments: arrays @promises of the promises' ids, NULL if only the workflow execution is known, and @workflows of their workflow
-- executions' ids.
-- Returns: one row without a value.
-- Locks: see promise_await_settlements in migrations/functions.
SELECT promise_await_settlements(promise_ids => @promises::TEXT[]::UUID[], workflow_ids => @workflows::TEXT[]::UUID[])
