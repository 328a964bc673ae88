-- Counts a waiting call for its tenant, unless the tenant already has as many waiting calls as it may have. Calls that begin at the same
-- time do not see each other, so a tenant may exceed its bound for a moment. Also deletes up to 100 expired rows of any tenant.
--
-- Arguments: @tenant, a slug; @id of the call; @longest time that it waits; @bound, used if tenant.max_waits is NULL.
-- Returns: one row, TRUE if the call was counted.
-- Locks: the expired rows, skipping locked ones.
-- Indexes: tenant_wait_pkey, idx_tenant_wait_expires.
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
    SELECT t.id, @id::UUID, NOW() + @longest::INTERVAL
    FROM tenant t
    WHERE t.slug = @tenant
      AND (SELECT COUNT(*) FROM tenant_wait w WHERE w.tenant_id = t.id AND w.expires_at > NOW()) < COALESCE(t.max_waits, @bound::INT)
    RETURNING id
)
SELECT EXISTS (SELECT FROM counted)
