-- Reports whether a call ($2) that was counted may wait on: calls that begin at the same time do not see each other, so that more of a
-- tenant ($1 slug) may be counted than may wait at once (tenant.max_waits or, where that is NULL, $3). Those with the lowest ids wait on.
-- No row: there is no such tenant, or it is suspended. No lock. tenant_wait_pkey.
SELECT (
    SELECT COUNT(*) FROM tenant_wait w WHERE w.tenant_id = t.id AND w.id < $2::UUID AND w.expires_at > NOW()
) < COALESCE(t.max_waits, $3::INT) AS exists
FROM tenant t
WHERE t.slug = $1 AND t.suspended_at IS NULL
