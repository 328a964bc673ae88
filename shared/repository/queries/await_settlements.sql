-- Waits until no settlement is running that may be in time for these deadlines: $1 the promises, or NULL if only the workflow
-- execution is known, $2 their workflow executions. What is read after this, past those deadlines, does not change.
--
-- migrations/ has the function, and says what it locks.
SELECT promise_await_settlements($1::TEXT[]::UUID[], $2::TEXT[]::UUID[])
