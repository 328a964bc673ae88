-- Creates a promise.
--
-- Arguments: as those of promise_create in migrations/functions. @tenant, a slug; @workflow, the workflow execution's id, and its @external_id;
-- @name; @key, an idempotency key, and @key_ttl; @timeout, counted from the creation, or @timeout_at, a moment; @metadata;
-- @deadline_outcome, @deadline_value and @deadline_error; @workflow_limit, the most promises of a workflow execution if the tenant has no
-- limit of its own; @notify, the targets; @awaited, TRUE if the caller has called await_settlements.sql.
-- Returns: one row, with found, which is promise_create's what, and its flags. No row if the tenant is unknown or suspended, or if the
-- workflow execution belongs to another tenant.
-- Locks, indexes: see promise_create.
SELECT
    (it).id, (it).workflow_execution_id, (it).name, (it).outcome, (it).value, (it).error, (it).timeout_at, (it).created_at,
    (it).resolved_at, (it).created_by_sequence, (it).resolved_by_sequence, (it).metadata, (it).idempotency_key,
    (it).timeout_outcome, (it).timeout_value, (it).timeout_error, (it).settled_by_kind, (it).settled_by_id, (it).comment,
    (it).erased_at, (it).tokens_revoked_at, external_id, CLOCK_TIMESTAMP() AS read_at, what AS found, doubtful, same_key, same_metadata,
    same_on_timeout, lost_hold
FROM promise_create(
    tenant_slug => @tenant, workflow => @workflow, new_external_id => @external_id, new_name => @name, new_key => @key, key_ttl => @key_ttl,
    new_timeout => @timeout, new_timeout_at => @timeout_at, new_metadata => @metadata, deadline_outcome => @deadline_outcome,
    deadline_value => @deadline_value, deadline_error => @deadline_error, workflow_limit => @workflow_limit, waited => @awaited,
    notify => @notify
)
WHERE what IS NOT NULL
