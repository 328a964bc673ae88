-- Registers an idempotency key for a promise that exists already. A key that no promise or early settlement has any more is taken over, if
-- its row is still as it was read.
--
-- Arguments: @tenant, a slug; @key; @promise, an id; @ttl, how long the key lives; @awaited, TRUE if the caller has called
-- await_settlements.sql.
-- Returns: one row; no row if the tenant has no such promise.
--   holder_id  the promise that the key names after the call
--   held       TRUE if the key has an early settlement, and was not registered
--   doubtful   TRUE if the holder's deadline has passed, and an extension that has not committed may still keep it pending. The caller calls
--              await_settlements.sql and then this statement again, with @awaited TRUE.
--   workflow_execution_id  if doubtful, the workflow execution of the holder
-- If another registration came first, the statement raises promise_race_lost, and the caller retries.
-- Locks: the key's row.
-- Indexes: promise_pkey, idempotency_key_pkey.
WITH target AS MATERIALIZED (
    SELECT p.id, p.tenant_id
    FROM tenant t
    JOIN promise p ON p.tenant_id = t.id
    WHERE t.slug = @tenant AND t.suspended_at IS NULL AND p.id = @promise::UUID
),
holder AS MATERIALIZED (
    SELECT
        k.promise_id,
        k.expires_at,
        k.held_at,
        promise_key_live(k.expires_at, q.resolved, q.timeout_at, NOW()) AS live,
        COALESCE(promise_key_uncertain(k.expires_at, q.resolved, q.timeout_at, NOW()) AND NOT @awaited::BOOLEAN, FALSE) AS doubtful,
        q.workflow_execution_id
    FROM target
    JOIN idempotency_key k ON k.tenant_id = target.tenant_id AND k.key = @key::VARCHAR
    LEFT JOIN promise q ON q.id = k.promise_id
),
registered AS (
    INSERT INTO idempotency_key AS k (tenant_id, key, promise_id, expires_at, check_at)
    SELECT tenant_id, @key::VARCHAR, id, NOW() + @ttl::INTERVAL, NOW() + @ttl::INTERVAL
    FROM target
    WHERE NOT EXISTS (SELECT FROM holder WHERE live OR doubtful OR held_at IS NOT NULL)
    ON CONFLICT (tenant_id, key) DO UPDATE
        SET promise_id = EXCLUDED.promise_id, expires_at = EXCLUDED.expires_at, check_at = EXCLUDED.check_at
        WHERE EXISTS (
            SELECT FROM holder h
            WHERE (h.promise_id, h.expires_at, h.held_at) IS NOT DISTINCT FROM (k.promise_id, k.expires_at, k.held_at)
        )
    RETURNING k.promise_id
)
SELECT
    CASE WHEN holder.held_at IS NULL THEN COALESCE(registered.promise_id, holder.promise_id, promise_race_lost(target.id)) ELSE holder.promise_id END
        AS holder_id,
    holder.held_at IS NOT NULL AS held,
    COALESCE(holder.doubtful, FALSE) AS doubtful,
    holder.workflow_execution_id
FROM target
LEFT JOIN registered ON TRUE
LEFT JOIN holder ON holder.live OR holder.doubtful OR holder.held_at IS NOT NULL
