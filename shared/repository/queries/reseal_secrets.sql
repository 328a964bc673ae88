-- Replaces sealed secrets by the same secrets, sealed by another key. A secret that has changed meanwhile stays as it is.
--
-- Arguments: @destinations, @versions, @olds and @news, arrays with one element for each secret.
-- Returns: one row for each secret that was replaced.
-- Locks: the secrets' rows.
-- Indexes: destination_secret_pkey.
UPDATE destination_secret s
SET sealed = n.sealed
FROM UNNEST(@destinations::UUID[], @versions::INT[], @olds::BYTEA[], @news::BYTEA[]) AS n (destination_id, version, old, sealed)
WHERE s.destination_id = n.destination_id AND s.version = n.version AND s.sealed = n.old
RETURNING s.version
