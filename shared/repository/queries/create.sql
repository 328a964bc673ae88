-- Creates a promise. $1 slug, $2 workflow execution, $3 name, $4 idempotency key and $5 its time to live, $6 timeout counted
-- from the creation, $7 timeout as a moment, $8 metadata, $9 to $11 outcome, value and error that the deadline brings, $12
-- whether those who may have extended the key's holder in time were waited for. No row: there is no such tenant, or the
-- workflow execution is another tenant's.
--
-- migrations/ has the function, and says what it locks.
SELECT
    (it).id, (it).workflow_execution_id, (it).name, (it).outcome, (it).value, (it).error, (it).timeout_at, (it).created_at,
    (it).resolved_at, (it).created_by_sequence, (it).resolved_by_sequence, (it).metadata, (it).idempotency_key,
    (it).timeout_outcome, (it).timeout_value, (it).timeout_error, (it).settled_by_kind, (it).settled_by_id, (it).comment, (it).tokens_revoked_at,
    CLOCK_TIMESTAMP() AS read_at, what AS found, doubtful, same_key, same_metadata, same_on_timeout, lost_hold
FROM promise_create($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
WHERE what IS NOT NULL
