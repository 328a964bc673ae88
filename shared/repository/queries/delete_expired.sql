-- Deletes at most $1 keys that are free: their time is over and their promise is settled, and recorded to be.
-- Locks: the keys' rows, those that somebody else holds are left for the next time. idx_idempotency_key_expires.
WITH free AS MATERIALIZED ( -- looked for once: each further look would lock $1 more
    SELECT k.tenant_id, k.key
    FROM idempotency_key k
    JOIN promise q ON q.id = k.promise_id
    WHERE k.expires_at <= NOW() AND q.resolved
    ORDER BY k.expires_at
    LIMIT $1
    FOR UPDATE OF k SKIP LOCKED
)
DELETE FROM idempotency_key k
USING free
WHERE k.tenant_id = free.tenant_id AND k.key = free.key
