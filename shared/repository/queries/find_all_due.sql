-- Finds all destinations with due deliveries, whenever they became due. It reads the first entry of each destination.
--
-- Arguments: none.
-- Returns: looked_at, the time of this statement, and a row for each destination, with the due time of its oldest delivery. If there is
-- none, one row with looked_at alone. A disabled destination, and one of a suspended tenant, is left out. A deleted one is returned if it has
-- a delivery with a due time, even a later one: see end_deliveries.sql.
-- Locks: none.
-- Indexes: idx_delivery_due_by_destination, destination_pkey.
WITH RECURSIVE oldest AS (
    (SELECT v.destination_id, v.due_at FROM delivery v WHERE v.due_at IS NOT NULL ORDER BY v.destination_id, v.due_at LIMIT 1)
    UNION ALL
    SELECT following.destination_id, following.due_at
    FROM oldest o
    CROSS JOIN LATERAL (
        SELECT v.destination_id, v.due_at
        FROM delivery v
        WHERE v.destination_id > o.destination_id AND v.due_at IS NOT NULL
        ORDER BY v.destination_id, v.due_at
        LIMIT 1
    ) AS following
)
SELECT looked.at AS looked_at, open.id AS destination_id, open.tenant_id, open.due_at, COALESCE(open.deleted, FALSE) AS deleted
FROM (SELECT NOW() AS at) AS looked
LEFT JOIN (
    SELECT d.id, d.tenant_id, o.due_at, d.deleted
    FROM oldest o
    CROSS JOIN LATERAL (
        SELECT q.id, q.tenant_id, q.enabled, q.deleted_at IS NOT NULL AS deleted FROM destination q WHERE q.id = o.destination_id
        OFFSET 0 -- a barrier, as in find_due.sql
    ) AS d
    JOIN tenant t ON t.id = d.tenant_id
    WHERE d.deleted OR d.enabled AND t.suspended_at IS NULL AND o.due_at <= NOW()
) AS open ON TRUE
