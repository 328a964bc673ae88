-- Checks idempotency keys whose check_at has passed, the oldest first. It deletes an expired early settlement, takes the promise from a key
-- that no longer names it, and deletes a key that has neither left. Every other key gets a new check_at: the earliest time at which one of
-- the two can end. A pending promise keeps its key for at least another 168 hours.
--
-- If an early settlement is stored between the snapshot and the lock, Postgres first evaluates SET and the row's CHECK with the old version
-- of the row, and then with the new one. So the result of SET must satisfy the CHECK with each of the two versions.
--
-- Arguments: @limit, the largest number of keys.
-- Returns: one row for each key. tenant and key are set if an early settlement expired that no receipt records; freed: the key lost its promise;
-- ended: its early settlement ended on its receipts.
-- Locks: the keys' rows, skipping locked ones until the next batch, then the receipts' of expired early settlements.
-- Indexes: idx_idempotency_key_check, idempotency_key_pkey, promise_pkey, idx_receipt_key.
WITH due AS MATERIALIZED ( -- MATERIALIZED: each further evaluation would lock @limit more
    SELECT
        k.tenant_id, k.key, k.promise_id IS NOT NULL AS has_promise, k.held_at IS NOT NULL AS has_early,
        CASE WHEN k.held_by_kind = 'webhook' THEN k.held_receipt_id END AS receipt_id,
        CASE WHEN k.held_at IS NOT NULL AND COALESCE(k.held_until, k.expires_at) > NOW() THEN COALESCE(k.held_until, k.expires_at) END
            AS held_until,
        CASE
            WHEN q.resolved THEN NULLIF(GREATEST(k.expires_at, q.resolved_at + INTERVAL '168 hours', NOW()), NOW())
            WHEN k.promise_id IS NOT NULL THEN GREATEST(k.expires_at, NOW() + INTERVAL '168 hours')
        END AS named_until -- NULL: the key no longer names the promise
    FROM idempotency_key k
    LEFT JOIN promise q ON q.id = k.promise_id
    WHERE k.check_at <= NOW()
    ORDER BY k.check_at
    LIMIT @limit
    FOR UPDATE OF k SKIP LOCKED
),
deleted AS (
    DELETE FROM idempotency_key k
    USING due
    WHERE k.tenant_id = due.tenant_id AND k.key = due.key AND due.held_until IS NULL AND due.named_until IS NULL
),
kept AS (
    UPDATE idempotency_key k
    SET promise_id = CASE WHEN due.named_until IS NOT NULL OR k.held_at IS NULL THEN k.promise_id END,
        expires_at = CASE WHEN due.named_until IS NOT NULL THEN k.expires_at ELSE due.held_until END,
        check_at = LEAST(due.held_until, due.named_until),
        held_until = CASE WHEN k.held_at IS NOT NULL THEN due.held_until END,
        held_at = CASE WHEN due.held_until IS NOT NULL THEN k.held_at END,
        held_outcome = CASE WHEN due.held_until IS NOT NULL THEN k.held_outcome END,
        held_value = CASE WHEN due.held_until IS NOT NULL THEN k.held_value END,
        held_error = CASE WHEN due.held_until IS NOT NULL THEN k.held_error END,
        held_by_kind = CASE WHEN due.held_until IS NOT NULL THEN k.held_by_kind END,
        held_by_id = CASE WHEN due.held_until IS NOT NULL THEN k.held_by_id END,
        held_comment = CASE WHEN due.held_until IS NOT NULL THEN k.held_comment END,
        held_receipt_id = CASE WHEN due.held_until IS NOT NULL THEN k.held_receipt_id END
    FROM due
    WHERE k.tenant_id = due.tenant_id AND k.key = due.key AND (due.held_until IS NOT NULL OR due.named_until IS NOT NULL)
)
SELECT
    CASE WHEN due.has_early AND due.held_until IS NULL AND due.receipt_id IS NULL THEN t.slug END AS tenant,
    CASE WHEN due.has_early AND due.held_until IS NULL AND due.receipt_id IS NULL THEN due.key END AS key,
    due.has_promise AND due.named_until IS NULL AS freed,
    CASE WHEN due.has_early AND due.held_until IS NULL THEN receipt_end(due.tenant_id, due.key, NULL, 'expired', NULL, NULL) ELSE FALSE END AS ended
FROM due
LEFT JOIN tenant t ON t.id = due.tenant_id
