-- Lists a tenant's deliveries, newest first.
--
-- Arguments: @tenant, a slug; @destination, the name of a destination that is not deleted, or NULL for all, also the deleted ones; @state, or
-- NULL; @after_at and @after_id, created_at and id of the last delivery of the previous page, or NULL; @limit, the largest number.
-- Returns: the deliveries. No row if nothing matches, or if the tenant is unknown or suspended.
-- Locks: none.
-- Indexes: idx_destination_tenant. For each destination and state it reads one part of idx_delivery_destination, in order and no further than
-- a page, then delivery_pkey for the page alone.
--
-- The limit comes from a subselect, so that the planner does not know it. A planner that knows it, and expects fewer rows in a part, reads and
-- sorts the whole part.
WITH bound AS MATERIALIZED (
    SELECT t.id AS tenant_id, COALESCE(@after_at::TIMESTAMPTZ, 'infinity') AS at,
           COALESCE(@after_id::UUID, 'ffffffff-ffff-ffff-ffff-ffffffffffff') AS id, @limit::INT AS largest
    FROM tenant t
    WHERE t.slug = @tenant AND t.suspended_at IS NULL
),
page AS MATERIALIZED (
    SELECT found.id
    FROM bound
    JOIN destination d ON d.tenant_id = bound.tenant_id
    CROSS JOIN (VALUES ('waiting'), ('due'), ('delivered'), ('gone'), ('dead')) AS known (state)
    CROSS JOIN LATERAL (
        SELECT v.id, v.created_at
        FROM delivery v
        WHERE v.destination_id = d.id AND v.state = known.state AND (v.created_at, v.id) < (bound.at, bound.id)
        ORDER BY v.created_at DESC, v.id DESC
        LIMIT (SELECT largest FROM bound)
    ) AS found
    WHERE (@destination::VARCHAR IS NULL OR d.name = @destination AND d.deleted_at IS NULL)
      AND (@state::VARCHAR IS NULL OR known.state = @state)
    ORDER BY found.created_at DESC, found.id DESC
    LIMIT (SELECT largest FROM bound)
)
SELECT
    v.id, v.promise_id, d.name AS destination, d.kind, v.state, v.attempts, v.created_at, v.due_at, v.last_attempt_at, v.last_status,
    v.last_error, v.ended_at, v.end_reason
FROM page
JOIN delivery v ON v.id = page.id
JOIN destination d ON d.id = v.destination_id
ORDER BY v.created_at DESC, v.id DESC
