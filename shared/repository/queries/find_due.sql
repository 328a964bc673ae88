-- Finds the destinations with deliveries that became due since a moment. It reads no older entry of the index, so it takes as long
-- as its interval has entries, dead ones included.
--
-- Arguments: @since, a moment.
-- Returns: looked_at, the time of this statement, and a row for each destination, with the due time of its oldest delivery after @since. If
-- there is none, one row with looked_at alone. A disabled or deleted destination, and one of a suspended tenant, is left out.
-- Locks: none.
-- Indexes: idx_delivery_due, destination_pkey.
WITH due AS MATERIALIZED (
    SELECT v.destination_id, MIN(v.due_at) AS due_at
    FROM delivery v
    WHERE v.due_at > @since::TIMESTAMPTZ AND v.due_at <= NOW()
    GROUP BY v.destination_id
)
SELECT looked.at AS looked_at, open.id AS destination_id, open.tenant_id, open.due_at, FALSE AS deleted
FROM (SELECT NOW() AS at) AS looked
LEFT JOIN (
    SELECT d.id, d.tenant_id, due.due_at
    FROM due
    CROSS JOIN LATERAL (
        SELECT q.id, q.tenant_id FROM destination q WHERE q.id = due.destination_id AND q.enabled AND q.deleted_at IS NULL
        OFFSET 0 -- a barrier: by the index, however many destinations the planner expects
    ) AS d
    JOIN tenant t ON t.id = d.tenant_id AND t.suspended_at IS NULL
) AS open ON TRUE
