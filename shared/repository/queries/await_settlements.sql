-- Waits until no settlement or extension that may still be in time for these deadlines is running. Rows that are read afterwards and are
-- past those deadlines do not change any more.
--
-- Arguments: $1 the promises' ids, NULL if only the workflow execution is known; $2 their workflow executions' ids.
-- Returns: one row without a value.
-- Locks: see promise_await_settlements in migrations/.
SELECT promise_await_settlements($1::TEXT[]::UUID[], $2::TEXT[]::UUID[])
