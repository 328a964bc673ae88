-- Adds the newest secret of a destination. The former one retires later.
--
-- Arguments: @id of the destination; @seen, its updated_at; @version and @sealed, the new secret; @former, the version that retires after @overlap, or
-- 0; @ends, the version that is deleted at once, or 0. Retired secrets are deleted, too.
-- Returns: one row with the new secret's time and the former one's retire_at; no row if the destination is deleted, or has changed since @seen:
-- then the caller reads it again and retries.
-- Locks: the destination's row, then its secrets'.
-- Indexes: destination_pkey, destination_secret_pkey.
WITH changed AS MATERIALIZED (
    UPDATE destination
    SET updated_at = CLOCK_TIMESTAMP()
    WHERE id = @id::UUID AND updated_at = @seen::TIMESTAMPTZ AND deleted_at IS NULL
    RETURNING id
),
ended AS (
    DELETE FROM destination_secret s
    USING changed
    WHERE s.destination_id = changed.id AND (s.version = @ends::INT OR s.retire_at <= NOW())
),
former AS (
    UPDATE destination_secret s
    SET retire_at = NOW() + @overlap::INTERVAL
    FROM changed
    WHERE s.destination_id = changed.id AND s.version = @former::INT
    RETURNING s.retire_at
),
created AS (
    INSERT INTO destination_secret (destination_id, version, sealed)
    SELECT id, @version::INT, @sealed::BYTEA FROM changed
    RETURNING created_at
)
SELECT created_at, (SELECT retire_at FROM former) AS retire_at FROM created
