-- Makes dead deliveries of a destination due now, with all their attempts ahead, oldest first.
--
-- Arguments: @tenant, a slug; @destination, its name; @limit, the largest number of deliveries.
-- Returns: known, whether the tenant has the destination; retried, the number of deliveries; more, whether others may be dead still. No row if
-- the tenant is unknown or suspended.
-- Locks: the deliveries' rows, skipping locked ones. A locked one counts as more.
-- Indexes: idx_destination_name, idx_delivery_destination, delivery_pkey. The limit comes from a subselect, as in list_deliveries.sql.
WITH target AS MATERIALIZED (
    SELECT (
        SELECT d.id FROM destination d WHERE d.tenant_id = t.id AND d.name = @destination::VARCHAR AND d.deleted_at IS NULL
    ) AS destination_id, @limit::INT AS largest
    FROM tenant t
    WHERE t.slug = @tenant AND t.suspended_at IS NULL
),
oldest AS MATERIALIZED (
    SELECT v.id
    FROM delivery v
    WHERE v.destination_id = (SELECT destination_id FROM target) AND v.state = 'dead'
    ORDER BY v.created_at, v.id
    LIMIT (SELECT largest FROM target)
    FOR UPDATE SKIP LOCKED
),
retried AS (
    UPDATE delivery v
    SET state = 'due', due_at = CLOCK_TIMESTAMP(), attempts = 0, lease = NULL, ended_at = NULL, end_reason = NULL
    FROM oldest
    WHERE v.id = oldest.id
    RETURNING v.id
)
SELECT
    target.destination_id IS NOT NULL AS known,
    (SELECT COUNT(*) FROM retried) AS retried,
    (SELECT COUNT(*) FROM retried) < (
        SELECT COUNT(*)
        FROM (
            SELECT v.id
            FROM delivery v
            WHERE v.destination_id = (SELECT destination_id FROM target) AND v.state = 'dead'
            ORDER BY v.created_at, v.id
            LIMIT (SELECT largest + 1 FROM target)
        ) AS dead
    ) AS more
FROM target
