-- Foresees what receive.sql would do, and writes nothing.
--
-- Arguments: @tenant, a slug; @source, an id; @event and @item; @key; @outcome; @value; @error; @hold. See receipt_preview in migrations/functions.
-- Returns: one row with receipt_preview's result; no row if the tenant has no such source.
-- Locks: none.
-- Indexes: see receipt_preview.
SELECT receipt_id, outcome, promise_id, repeated, key, reason
FROM receipt_preview(
    tenant_slug => @tenant, of_source => @source, given_event => @event, given_item => @item, new_key => @key, new_outcome => @outcome,
    new_value => @value, new_error => @error, hold => @hold
)
WHERE outcome IS NOT NULL
