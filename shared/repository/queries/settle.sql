-- Settles a promise, by id ($2) or, where that is NULL, by idempotency key ($3). $1 slug, $4 outcome, $5 value, $6 error, $7 and
-- $8 kind and id of who settles, $9 comment. No row: there is no such promise for this tenant.
--
-- migrations/ has the function, and says what it locks.
SELECT promise_id, workflow_execution_id, state, by_deadline, same, settled, overdue_since
FROM promise_settle($1, $2, $3, $4, $5, $6, $7, $8, $9)
WHERE promise_id IS NOT NULL
