-- Registers a key ($2) for a promise that exists already ($3). $1 slug, $4 the key's time to live.
-- One row: the promise that holds the key now, or held: a settlement for a promise that is still to come. Neither:
-- another registration came in between: to be run again. No row: there is no such promise for this tenant.
--
-- Locks: the key's row. A free key passes on, if it still is as it was seen. doubtful and $5: as in create.sql.
WITH target AS MATERIALIZED (
    SELECT p.id, p.tenant_id
    FROM tenant t
    JOIN promise p ON p.tenant_id = t.id
    WHERE t.slug = $1 AND t.suspended_at IS NULL AND p.id = $3::UUID
),
holder AS MATERIALIZED (
    SELECT
        k.promise_id,
        k.expires_at,
        k.held_at,
        promise_key_live(k.expires_at, q.resolved, q.timeout_at, NOW()) AS live,
        COALESCE(NOT q.resolved AND k.expires_at <= NOW() AND q.timeout_at <= NOW() AND NOT $5::BOOLEAN, FALSE) AS doubtful,
        q.workflow_execution_id
    FROM target
    JOIN idempotency_key k ON k.tenant_id = target.tenant_id AND k.key = $2::VARCHAR
    LEFT JOIN promise q ON q.id = k.promise_id
),
registered AS (
    INSERT INTO idempotency_key AS k (tenant_id, key, promise_id, expires_at, check_at)
    SELECT tenant_id, $2::VARCHAR, id, NOW() + $4::INTERVAL, NOW() + $4::INTERVAL
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
    COALESCE(registered.promise_id, holder.promise_id) AS holder_id,
    holder.held_at IS NOT NULL AS held,
    COALESCE(holder.doubtful, FALSE) AS doubtful,
    holder.workflow_execution_id
FROM target
LEFT JOIN registered ON TRUE
LEFT JOIN holder ON holder.live OR holder.doubtful OR holder.held_at IS NOT NULL
