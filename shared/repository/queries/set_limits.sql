-- Sets limits of a tenant. It also updates the flags that say which limits are reached, by the last count.
--
-- Arguments: @tenant, a slug; @limits, a JSON object with the limits to set, each a number, or null for the service's own limit;
-- @default_pending, @default_early and @default_early_bytes, the service's own limits.
-- Returns: the tenant's id; no row if it is unknown.
-- Locks: the tenant's row.
-- Indexes: tenant_slug_key, tenant_usage_pkey.
WITH wanted AS MATERIALIZED (
    SELECT
        t.id,
        CASE WHEN jsonb_exists(given.limits, 'pending') THEN (given.limits ->> 'pending')::BIGINT ELSE t.max_pending END AS pending,
        CASE WHEN jsonb_exists(given.limits, 'workflowPromises') THEN (given.limits ->> 'workflowPromises')::INT ELSE t.max_workflow_promises END
            AS workflow_promises,
        CASE WHEN jsonb_exists(given.limits, 'held') THEN (given.limits ->> 'held')::BIGINT ELSE t.max_held END AS held,
        CASE WHEN jsonb_exists(given.limits, 'heldBytes') THEN (given.limits ->> 'heldBytes')::BIGINT ELSE t.max_held_bytes END AS held_bytes,
        CASE WHEN jsonb_exists(given.limits, 'waits') THEN (given.limits ->> 'waits')::INT ELSE t.max_waits END AS waits
    FROM tenant t
    CROSS JOIN (SELECT @limits::JSONB AS limits) AS given
    WHERE t.slug = @tenant
    FOR NO KEY UPDATE OF t
)
UPDATE tenant t
SET max_pending = w.pending, max_workflow_promises = w.workflow_promises, max_held = w.held, max_held_bytes = w.held_bytes,
    max_waits = w.waits,
    pending_full = COALESCE(u.pending, 0) >= COALESCE(w.pending, @default_pending::BIGINT),
    held_full = COALESCE(u.held, 0) >= COALESCE(w.held, @default_early::BIGINT)
        OR COALESCE(u.held_bytes, 0) >= COALESCE(w.held_bytes, @default_early_bytes::BIGINT)
FROM wanted w
LEFT JOIN tenant_usage u ON u.tenant_id = w.id
WHERE t.id = w.id
RETURNING t.id
