-- Stores an early settlement under an idempotency key, for the promise that will be created with it.
--
-- Arguments:
--   tenant_slug, given_key  the tenant and the key
--   ttl                     how long the settlement is stored
--   new_outcome             'resolved' or 'rejected'
--   new_value, new_error    the settlement's value, or its error; the other is NULL
--   new_kind, new_by        the kind and the id of the caller; the id may be NULL
--   new_comment             a comment, or NULL
--   settlements_awaited     TRUE if the caller has called promise_await_settlements for the promise of the key
--   new_receipt             the receipt of the webhook that settles, or NULL
--   may_store               FALSE if the caller's own limit forbids another early settlement
--
-- Returns NULL if the tenant is unknown or suspended. Otherwise:
--   expires_at             the end of the early settlement that the key has after the call
--   stored                 TRUE if this call stored it
--   same                   TRUE if the key already had an equal one
--   expired_unused         TRUE if this call replaced an expired one that no receipt records
--   holder_id              a promise that answers the call; expires_at is then NULL. The key belongs to it, or names it and it was settled with the
--                          same bytes.
--   uncertain, workflow_execution_id  as in add_idempotency_key.sql
--   is_full                TRUE if the limit of early settlements is reached
--   receipt_id             the receipt of the early settlement that the key has after the call
-- If expires_at and holder_id are NULL, nothing was stored: with is_full because of the limit, otherwise because another call came first, and the
-- caller retries.
--
-- Locks: the key's row, then the receipts' of an expired early settlement. The settlement is stored only if the key's row is still as it was read.
--
-- Indexes: idempotency_key_pkey, promise_pkey, idx_receipt_key.
CREATE OR REPLACE FUNCTION promise_settle_early(
    tenant_slug VARCHAR, given_key VARCHAR, ttl INTERVAL, new_outcome VARCHAR, new_value BYTEA, new_error TEXT,
    new_kind VARCHAR, new_by VARCHAR, new_comment VARCHAR, settlements_awaited BOOLEAN, new_receipt UUID, may_store BOOLEAN
) RETURNS early_result LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
    result early_result;
    of_tenant UUID;
    replaced BOOLEAN; -- this call replaced an expired early settlement
BEGIN
    WITH seen AS MATERIALIZED (
        SELECT
            k.promise_id, k.expires_at, k.held_at, COALESCE(k.held_until, k.expires_at) AS held_until,
            k.held_at IS NOT NULL AND COALESCE(k.held_until, k.expires_at) > NOW() AS has_early,
            q.id IS NOT NULL AND (
                promise_key_live(k.expires_at, q.resolved, q.timeout_at, NOW())
                OR promise_key_names(k.expires_at, q.resolved, q.resolved_at, q.timeout_at, NOW())
                    AND q.settled_by_kind IS DISTINCT FROM 'deadline' AND q.outcome IS NOT DISTINCT FROM new_outcome
                    AND q.value IS NOT DISTINCT FROM new_value AND q.error IS NOT DISTINCT FROM new_error
            ) AS answers,
            COALESCE(promise_key_uncertain(k.expires_at, q.resolved, q.timeout_at, NOW()) AND NOT settlements_awaited, FALSE) AS uncertain,
            q.workflow_execution_id,
            k.held_outcome = new_outcome AND k.held_value IS NOT DISTINCT FROM new_value AND k.held_error IS NOT DISTINCT FROM new_error AS same,
            CASE WHEN k.held_by_kind = 'webhook' THEN k.held_receipt_id END AS receipt_id
        FROM tenant t
        JOIN idempotency_key k ON k.tenant_id = t.id AND k.key = given_key
        LEFT JOIN promise q ON q.id = k.promise_id
        WHERE t.slug = tenant_slug AND t.suspended_at IS NULL
    ),
    stored AS (
        INSERT INTO idempotency_key AS k (tenant_id, key, expires_at, check_at, held_until, held_at, held_outcome, held_value,
                                          held_error, held_by_kind, held_by_id, held_comment, held_receipt_id)
        SELECT t.id, given_key, NOW() + ttl, NOW() + ttl, NOW() + ttl, NOW(), new_outcome, new_value, new_error, new_kind, new_by, new_comment,
               new_receipt
        FROM tenant t
        WHERE t.slug = tenant_slug AND t.suspended_at IS NULL AND NOT t.held_full AND may_store
          AND NOT EXISTS (SELECT FROM seen WHERE has_early OR answers OR uncertain)
        ON CONFLICT (tenant_id, key) DO UPDATE
            SET expires_at = CASE WHEN k.promise_id IS NULL THEN EXCLUDED.expires_at ELSE k.expires_at END,
                check_at = CASE WHEN k.promise_id IS NULL THEN EXCLUDED.check_at ELSE LEAST(k.check_at, EXCLUDED.check_at) END,
                held_until = EXCLUDED.held_until, held_at = EXCLUDED.held_at, held_outcome = EXCLUDED.held_outcome,
                held_value = EXCLUDED.held_value, held_error = EXCLUDED.held_error, held_by_kind = EXCLUDED.held_by_kind,
                held_by_id = EXCLUDED.held_by_id, held_comment = EXCLUDED.held_comment, held_receipt_id = EXCLUDED.held_receipt_id
            WHERE EXISTS (
                SELECT FROM seen
                WHERE (seen.expires_at, seen.promise_id, seen.held_at) IS NOT DISTINCT FROM (k.expires_at, k.promise_id, k.held_at)
            )
        RETURNING k.held_until
    )
    SELECT
        COALESCE(stored.held_until, CASE WHEN seen.has_early AND NOT seen.answers THEN seen.held_until END),
        stored.held_until IS NOT NULL,
        COALESCE(seen.same, FALSE),
        stored.held_until IS NOT NULL AND EXISTS (SELECT FROM seen WHERE held_at IS NOT NULL AND receipt_id IS NULL),
        CASE WHEN seen.answers THEN seen.promise_id END,
        COALESCE(seen.uncertain, FALSE),
        seen.workflow_execution_id,
        t.held_full OR NOT may_store,
        CASE WHEN stored.held_until IS NOT NULL THEN new_receipt ELSE seen.receipt_id END,
        t.id,
        stored.held_until IS NOT NULL AND EXISTS (SELECT FROM seen WHERE held_at IS NOT NULL)
    INTO
        result.expires_at, result.stored, result.same, result.expired_unused, result.holder_id, result.uncertain, result.workflow_execution_id,
        result.is_full, result.receipt_id, of_tenant, replaced
    FROM tenant t
    LEFT JOIN stored ON TRUE
    LEFT JOIN seen ON seen.has_early OR seen.answers OR seen.uncertain
    WHERE t.slug = tenant_slug AND t.suspended_at IS NULL;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    IF replaced THEN
        PERFORM receipt_end(of_tenant, given_key, new_receipt, 'expired', NULL, NULL);
    END IF;
    RETURN result;
END $$;
