-- Sets limits of a tenant. It also updates the flags that say which limits are reached, by the last count.
--
-- Arguments: $1 slug; $2 a JSON object with the limits to set, each a number, or null for the service's own limit; the service's own limits of
-- $3 pending promises, $4 early settlements and $5 their bytes.
-- Returns: the tenant's id; no row if it is unknown.
-- Locks: the tenant's row.
-- Indexes: tenant_slug_key, tenant_usage_pkey.
WITH wanted AS MATERIALIZED (
    SELECT
        t.id,
        CASE WHEN jsonb_exists($2::JSONB, 'pending') THEN ($2 ->> 'pending')::BIGINT ELSE t.max_pending END AS pending,
        CASE WHEN jsonb_exists($2, 'workflowPromises') THEN ($2 ->> 'workflowPromises')::INT ELSE t.max_workflow_promises END AS workflow_promises,
        CASE WHEN jsonb_exists($2, 'held') THEN ($2 ->> 'held')::BIGINT ELSE t.max_held END AS held,
        CASE WHEN jsonb_exists($2, 'heldBytes') THEN ($2 ->> 'heldBytes')::BIGINT ELSE t.max_held_bytes END AS held_bytes,
        CASE WHEN jsonb_exists($2, 'waits') THEN ($2 ->> 'waits')::INT ELSE t.max_waits END AS waits
    FROM tenant t
    WHERE t.slug = $1
    FOR NO KEY UPDATE
)
UPDATE tenant t
SET max_pending = w.pending, max_workflow_promises = w.workflow_promises, max_held = w.held, max_held_bytes = w.held_bytes,
    max_waits = w.waits,
    pending_full = COALESCE(u.pending, 0) >= COALESCE(w.pending, $3::BIGINT),
    held_full = COALESCE(u.held, 0) >= COALESCE(w.held, $4::BIGINT) OR COALESCE(u.held_bytes, 0) >= COALESCE(w.held_bytes, $5::BIGINT)
FROM wanted w
LEFT JOIN tenant_usage u ON u.tenant_id = w.id
WHERE t.id = w.id
RETURNING t.id
