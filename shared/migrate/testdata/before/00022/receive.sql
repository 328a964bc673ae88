-- Settles a promise by a webhook, or stores the settlement for a promise to come, and records the receipt.
--
-- Arguments: @tenant, a slug; @source, an id; @event and @item; @receipt, the id of a new receipt; @id, the promise that the key named before a
-- lost race, or NULL; @rule; @key; @outcome; @value; @error; @hold; @reason; @body_id and @body. See receipt_settle in migrations/functions.
-- Returns: one row with receipt_settle's result; no row if the tenant has no such source.
-- Locks, indexes: see receipt_settle.
SELECT receipt_id, outcome, promise_id, repeated, key, reason
FROM receipt_settle(
    tenant_slug => @tenant, of_source => @source, given_event => @event, given_item => @item, new_id => @receipt, known_promise => @id,
    new_rule => @rule, new_key => @key, new_outcome => @outcome, new_value => @value, new_error => @error, hold => @hold, new_reason => @reason,
    body_id => @body_id, new_body => @body
)
WHERE outcome IS NOT NULL
