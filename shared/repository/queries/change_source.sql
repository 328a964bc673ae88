-- Changes a source, and perhaps adds its newest secret. The former secret retires later.
--
-- Arguments: @id of the source; @seen, its version; @definition and @enabled, each NULL to stay; @secret, the version of the new secret, and @sealed;
-- NULL for no new secret; @former, the version of the secret that retires after @overlap, or 0; @ends, the version of the secret that is deleted at
-- once, or 0. Retired secrets are deleted, too.
-- Returns: one row with the source's version and updated_at, the new secret's time and the former one's retire_at; no row if the source is deleted, or
-- has changed since @seen: then the caller reads it again and retries.
-- Locks: the source's row, then its secrets'.
-- Indexes: source_pkey, source_secret_pkey.
WITH changed AS MATERIALIZED (
    UPDATE source
    SET definition = COALESCE(@definition::TEXT, definition), enabled = COALESCE(@enabled::BOOLEAN, enabled), version = version + 1,
        updated_at = CLOCK_TIMESTAMP()
    WHERE id = @id::UUID AND version = @seen::INT
    RETURNING id, version, updated_at
),
ended AS (
    DELETE FROM source_secret x
    USING changed
    WHERE x.source_id = changed.id AND (x.version = @ends::INT OR x.retire_at <= NOW())
),
former AS (
    UPDATE source_secret x
    SET retire_at = NOW() + @overlap::INTERVAL
    FROM changed
    WHERE x.source_id = changed.id AND x.version = @former::INT
    RETURNING x.retire_at
),
created AS (
    INSERT INTO source_secret (source_id, version, sealed)
    SELECT id, @secret::INT, @sealed::BYTEA FROM changed WHERE @sealed IS NOT NULL
    RETURNING created_at
)
SELECT version, updated_at, (SELECT created_at FROM created) AS created_at, (SELECT retire_at FROM former) AS retire_at FROM changed
