-- Settles a promise.
--
-- Arguments: @tenant, a slug; @id or, if that is NULL, idempotency @key; @outcome; @value; @error; @kind and @by, the kind and the id of the
-- caller; @comment. @value, @error, @by and @comment may be NULL.
-- Returns: one row with columns of promise_settle's result; no row if the tenant has no such promise.
-- Locks, indexes: see promise_settle in migrations/functions.
SELECT promise_id, state, by_deadline, same, settled
FROM promise_settle(
    tenant_slug => @tenant, given_id => @id, given_key => @key, new_outcome => @outcome, new_value => @value, new_error => @error,
    new_kind => @kind, new_by => @by, new_comment => @comment
)
WHERE promise_id IS NOT NULL
