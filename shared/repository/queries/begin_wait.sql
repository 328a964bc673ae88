-- Counts a call ($2) that waits, for $3 at most, for its tenant ($1 slug), unless as many of the tenant's calls are counted already as
-- may wait at once: tenant.max_waits or, where that is NULL, $4. Reports whether it did. Calls that begin at the same time do not see
-- each other, so that a tenant may exceed its bound for a moment. Up to 100 expired rows of any tenant are deleted in passing.
--
-- Locks the expired rows, without waiting for any. tenant_wait_pkey, idx_tenant_wait_expires.
WITH expired AS MATERIALIZED (
    SELECT w.tenant_id, w.id
    FROM tenant_wait w
    WHERE w.expires_at <= NOW()
    ORDER BY w.expires_at
    LIMIT 100
    FOR UPDATE SKIP LOCKED
),
deleted AS (
    DELETE FROM tenant_wait w USING expired e WHERE w.tenant_id = e.tenant_id AND w.id = e.id
),
counted AS (
    INSERT INTO tenant_wait (tenant_id, id, expires_at)
    SELECT t.id, $2::UUID, NOW() + $3::INTERVAL
    FROM tenant t
    WHERE t.slug = $1
      AND (SELECT COUNT(*) FROM tenant_wait w WHERE w.tenant_id = t.id AND w.expires_at > NOW()) < COALESCE(t.max_waits, $4::INT)
    RETURNING id
)
SELECT EXISTS (SELECT FROM counted)
