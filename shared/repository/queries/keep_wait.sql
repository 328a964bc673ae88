-- Reports whether a counted call may continue to wait. Calls that begin at the same time do not see each other, so more of them may be
-- counted than may wait. The calls with the lowest ids continue.
--
-- Arguments: @tenant, a slug; @id of the call; @bound, used if tenant.max_waits is NULL.
-- Returns: TRUE or FALSE; no row if the tenant is unknown or suspended.
-- Locks: none.
-- Indexes: tenant_wait_pkey.
SELECT (
    SELECT COUNT(*) FROM tenant_wait w WHERE w.tenant_id = t.id AND w.id < @id::UUID AND w.expires_at > NOW()
) < COALESCE(t.max_waits, @bound::INT) AS exists
FROM tenant t
WHERE t.slug = @tenant AND t.suspended_at IS NULL
