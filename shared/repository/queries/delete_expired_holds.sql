-- Deletes at most $1 held settlements for which no promise came in time, and tells whose they were.
-- Locks: the keys' rows, those that somebody else holds are left for the next time. idx_idempotency_key_expires.
WITH lost AS MATERIALIZED ( -- looked for once: each further look would lock $1 more
    SELECT e.tenant_id, e.key
    FROM idempotency_key e
    WHERE e.promise_id IS NULL AND e.expires_at <= NOW()
    ORDER BY e.expires_at
    LIMIT $1
    FOR UPDATE SKIP LOCKED
)
DELETE FROM idempotency_key k
USING lost, tenant t
WHERE k.tenant_id = lost.tenant_id AND k.key = lost.key AND t.id = lost.tenant_id
RETURNING t.slug AS tenant, k.key
