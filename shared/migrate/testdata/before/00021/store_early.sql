-- Stores an early settlement under an idempotency key, for the promise that will be created with it.
--
-- Arguments: @tenant, a slug; @key; @ttl, how long the settlement is stored; @outcome; @value; @error; @kind and @by, the kind and the id of the
-- caller; @comment; @awaited, TRUE if the caller has called await_settlements.sql. @value, @error, @by and @comment may be NULL.
-- Returns: one row; no row if the tenant is unknown or suspended.
--   expires_at  the end of the early settlement that the key has after the call
--   held        TRUE if this call stored it
--   same        TRUE if the key already had an equal one
--   lost_hold   TRUE if this call replaced an expired one
--   holder_id   a promise that answers the call; expires_at is then NULL. The key belongs to it, or names it and it was settled with the same bytes.
--   doubtful, workflow_execution_id  as in add_idempotency_key.sql
--   full        TRUE if the tenant has as many early settlements as it may have
-- If expires_at and holder_id are NULL, nothing was stored: with full because of the limit, otherwise because another call came first, and the
-- caller retries.
-- Locks: the key's row. The settlement is stored only if the row is still as it was read.
-- Indexes: idempotency_key_pkey, promise_pkey.
WITH seen AS MATERIALIZED (
    SELECT
        k.promise_id, k.expires_at, k.held_at, COALESCE(k.held_until, k.expires_at) AS held_until,
        k.held_at IS NOT NULL AND COALESCE(k.held_until, k.expires_at) > NOW() AS has_early,
        q.id IS NOT NULL AND (
            promise_key_live(k.expires_at, q.resolved, q.timeout_at, NOW())
            OR promise_key_names(k.expires_at, q.resolved, q.resolved_at, q.timeout_at, NOW())
                AND q.settled_by_kind IS DISTINCT FROM 'deadline' AND q.outcome IS NOT DISTINCT FROM @outcome::VARCHAR
                AND q.value IS NOT DISTINCT FROM @value::BYTEA AND q.error IS NOT DISTINCT FROM @error::TEXT
        ) AS answers,
        COALESCE(promise_key_uncertain(k.expires_at, q.resolved, q.timeout_at, NOW()) AND NOT @awaited::BOOLEAN, FALSE) AS doubtful,
        q.workflow_execution_id,
        k.held_outcome = @outcome::VARCHAR AND k.held_value IS NOT DISTINCT FROM @value::BYTEA
            AND k.held_error IS NOT DISTINCT FROM @error::TEXT AS same
    FROM tenant t
    JOIN idempotency_key k ON k.tenant_id = t.id AND k.key = @key::VARCHAR
    LEFT JOIN promise q ON q.id = k.promise_id
    WHERE t.slug = @tenant AND t.suspended_at IS NULL
),
stored AS (
    INSERT INTO idempotency_key AS k (tenant_id, key, expires_at, check_at, held_until, held_at, held_outcome, held_value,
                                      held_error, held_by_kind, held_by_id, held_comment)
    SELECT t.id, @key::VARCHAR, NOW() + @ttl::INTERVAL, NOW() + @ttl::INTERVAL, NOW() + @ttl::INTERVAL, NOW(), @outcome::VARCHAR, @value::BYTEA,
           @error::TEXT, @kind::VARCHAR, @by::VARCHAR, @comment::VARCHAR
    FROM tenant t
    WHERE t.slug = @tenant AND t.suspended_at IS NULL AND NOT t.held_full AND NOT EXISTS (SELECT FROM seen WHERE has_early OR answers OR doubtful)
    ON CONFLICT (tenant_id, key) DO UPDATE
        SET expires_at = CASE WHEN k.promise_id IS NULL THEN EXCLUDED.expires_at ELSE k.expires_at END,
            check_at = CASE WHEN k.promise_id IS NULL THEN EXCLUDED.check_at ELSE LEAST(k.check_at, EXCLUDED.check_at) END,
            held_until = EXCLUDED.held_until, held_at = EXCLUDED.held_at, held_outcome = EXCLUDED.held_outcome,
            held_value = EXCLUDED.held_value, held_error = EXCLUDED.held_error, held_by_kind = EXCLUDED.held_by_kind,
            held_by_id = EXCLUDED.held_by_id, held_comment = EXCLUDED.held_comment
        WHERE EXISTS (
            SELECT FROM seen
            WHERE (seen.expires_at, seen.promise_id, seen.held_at) IS NOT DISTINCT FROM (k.expires_at, k.promise_id, k.held_at)
        )
    RETURNING k.held_until
)
SELECT
    COALESCE(stored.held_until, CASE WHEN seen.has_early AND NOT seen.answers THEN seen.held_until END) AS expires_at,
    stored.held_until IS NOT NULL AS held,
    CASE WHEN seen.answers THEN seen.promise_id END AS holder_id,
    COALESCE(seen.doubtful, FALSE) AS doubtful,
    seen.workflow_execution_id,
    COALESCE(seen.same, FALSE) AS same,
    stored.held_until IS NOT NULL AND EXISTS (SELECT FROM seen WHERE held_at IS NOT NULL) AS lost_hold,
    t.held_full AS "full"
FROM tenant t
LEFT JOIN stored ON TRUE
LEFT JOIN seen ON seen.has_early OR seen.answers OR seen.doubtful
WHERE t.slug = @tenant AND t.suspended_at IS NULL
