-- Creates a promise.
--
-- Arguments: $1 slug, $2 workflow execution and $3 its external id, $4 name, $5 idempotency key and $6 its time to live, $7 timeout counted
-- from the creation, $8 deadline as a moment, $9 metadata, $10 to $12 outcome, value and error at the deadline, $13 the most
-- promises of a workflow execution if the tenant has no limit of its own, $14 TRUE if the caller has called await_settlements.sql.
-- Returns: one row, with found and the flags of promise_create in migrations/. No row if the tenant is unknown or suspended, or if the
-- workflow execution belongs to another tenant.
-- Locks, indexes: see promise_create.
SELECT
    (it).id, (it).workflow_execution_id, (it).name, (it).outcome, (it).value, (it).error, (it).timeout_at, (it).created_at,
    (it).resolved_at, (it).created_by_sequence, (it).resolved_by_sequence, (it).metadata, (it).idempotency_key,
    (it).timeout_outcome, (it).timeout_value, (it).timeout_error, (it).settled_by_kind, (it).settled_by_id, (it).comment,
    (it).erased_at, (it).tokens_revoked_at, external_id, CLOCK_TIMESTAMP() AS read_at, what AS found, doubtful, same_key, same_metadata,
    same_on_timeout, lost_hold
FROM promise_create($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)
WHERE what IS NOT NULL
