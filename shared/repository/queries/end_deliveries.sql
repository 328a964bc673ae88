-- Ends the deliveries of deleted destinations that are due, now or later. A delivery that a relay is sending is left until its lease ends.
--
-- Arguments: @destinations, the ids of deleted destinations; @limit, the largest number of deliveries.
-- Returns: the number of deliveries that ended.
-- Locks: the deliveries' rows, skipping locked ones.
-- Indexes: idx_delivery_due_by_destination, delivery_pkey.
WITH due AS MATERIALIZED (
    SELECT v.id
    FROM UNNEST(@destinations::UUID[]) AS d (id)
    CROSS JOIN LATERAL (
        SELECT q.id
        FROM delivery q
        WHERE q.destination_id = d.id AND q.due_at IS NOT NULL AND (q.lease IS NULL OR q.due_at <= NOW())
        ORDER BY q.due_at
        LIMIT @limit::INT
        FOR UPDATE SKIP LOCKED
    ) AS v
    LIMIT @limit::INT
),
ended AS (
    UPDATE delivery v
    SET state = 'gone', due_at = NULL, lease = NULL, ended_at = NOW(), end_reason = 'The destination was deleted.'
    FROM due
    WHERE v.id = due.id
    RETURNING v.id
)
SELECT COUNT(*) AS n FROM ended
