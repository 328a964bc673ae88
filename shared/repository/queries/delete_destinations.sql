-- Deletes the rows of deleted destinations without deliveries, and secrets that have retired. A create that found a destination just before its
-- deletion may still add a delivery to it, so the row stays for ten minutes.
--
-- Arguments: @limit, the largest number of rows of each kind.
-- Returns: one row with the counts.
-- Locks: the destinations' rows and the secrets', skipping locked ones.
-- Indexes: idx_destination_deleted, idx_delivery_destination, destination_pkey; idx_destination_secret_retire, destination_secret_pkey.
WITH doomed AS MATERIALIZED (
    SELECT d.id
    FROM destination d
    WHERE d.deleted_at < NOW() - INTERVAL '10 minutes'
      AND (SELECT v.destination_id FROM delivery v WHERE v.destination_id = d.id ORDER BY v.state LIMIT 1) IS NULL -- not NOT EXISTS, which might read all deliveries
    LIMIT @limit::INT
    FOR UPDATE SKIP LOCKED
),
destinations AS (
    DELETE FROM destination d
    USING doomed
    WHERE d.id = doomed.id
    RETURNING 1
),
retired AS MATERIALIZED (
    SELECT s.destination_id, s.version
    FROM destination_secret s
    WHERE s.retire_at < NOW()
    LIMIT @limit
    FOR UPDATE SKIP LOCKED
),
secrets AS (
    DELETE FROM destination_secret s
    USING retired r
    WHERE s.destination_id = r.destination_id AND s.version = r.version
    RETURNING 1
)
SELECT (SELECT COUNT(*) FROM destinations) AS destinations, (SELECT COUNT(*) FROM secrets) AS secrets
