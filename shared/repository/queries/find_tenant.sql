-- Reads a tenant, suspended or not, with the columns of list_tenants.sql.
--
-- Arguments: @tenant, a slug.
-- Returns: the tenant; no row if there is none.
-- Locks: none.
-- Indexes: tenant_slug_key.
SELECT
    t.id, t.slug, t.suspended_at, t.deleted_at, u.pending, u.held, u.held_bytes, u.counted_at,
    jsonb_strip_nulls(jsonb_build_object(
        'pending', t.max_pending,
        'workflowPromises', t.max_workflow_promises,
        'held', t.max_held,
        'heldBytes', t.max_held_bytes,
        'waits', t.max_waits
    )) AS limits
FROM tenant t
LEFT JOIN tenant_usage u ON u.tenant_id = t.id
WHERE t.slug = @tenant
