-- Stores an early settlement under an idempotency key, for the promise that will be created with it.
--
-- Arguments: @tenant, a slug; @key; @ttl, how long the settlement is stored; @outcome; @value; @error; @kind and @by, the kind and the id of the
-- caller; @comment; @awaited, TRUE if the caller has called await_settlements.sql. @value, @error, @by and @comment may be NULL.
-- Returns: one row with columns of promise_settle_early's result; no row if the tenant is unknown or suspended.
-- Locks, indexes: see promise_settle_early in migrations/functions.
SELECT expires_at, stored, same, expired_unused, holder_id, uncertain AS doubtful, workflow_execution_id, is_full
FROM promise_settle_early(
    tenant_slug => @tenant, given_key => @key, ttl => @ttl, new_outcome => @outcome, new_value => @value, new_error => @error,
    new_kind => @kind, new_by => @by, new_comment => @comment, settlements_awaited => @awaited, new_receipt => NULL, may_store => TRUE
)
WHERE stored IS NOT NULL
