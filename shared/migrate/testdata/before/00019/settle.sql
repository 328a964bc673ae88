-- Settles a promise.
--
-- Arguments: $1 slug, $2 id or, if that is NULL, $3 idempotency key, $4 outcome, $5 value, $6 error, $7 and $8 kind and id of the caller, $9
-- comment.
-- Returns: the promise's state and what the call did; no row if the tenant has no such promise.
-- Locks, indexes: see promise_settle in migrations/.
SELECT promise_id, workflow_execution_id, state, by_deadline, same, settled, overdue_since
FROM promise_settle($1, $2, $3, $4, $5, $6, $7, $8, $9)
WHERE promise_id IS NOT NULL
