-- Deletes expired receipts with their bodies, expired bodies, and secrets of sources that have retired.
--
-- Arguments: @limit, the largest number of rows of each kind.
-- Returns: one row with the counts.
-- Locks: the receipts' rows, the bodies' and the secrets', skipping locked ones.
-- Indexes: idx_receipt_expires, receipt_pkey, idx_receipt_body_expires, receipt_body_pkey, idx_source_secret_retire, source_secret_pkey.
WITH expired AS MATERIALIZED (
    SELECT r.id
    FROM receipt r
    WHERE r.expires_at < NOW()
    ORDER BY r.expires_at
    LIMIT @limit::INT
    FOR UPDATE SKIP LOCKED
),
receipts AS (
    DELETE FROM receipt r
    USING expired
    WHERE r.id = expired.id
    RETURNING 1
),
old AS MATERIALIZED (
    SELECT b.id
    FROM receipt_body b
    WHERE b.expires_at < NOW()
    ORDER BY b.expires_at
    LIMIT @limit
    FOR UPDATE SKIP LOCKED
),
bodies AS (
    DELETE FROM receipt_body b
    USING old
    WHERE b.id = old.id
    RETURNING 1
),
retired AS MATERIALIZED (
    SELECT s.source_id, s.version
    FROM source_secret s
    WHERE s.retire_at < NOW()
    LIMIT @limit
    FOR UPDATE SKIP LOCKED
),
secrets AS (
    DELETE FROM source_secret s
    USING retired
    WHERE s.source_id = retired.source_id AND s.version = retired.version
    RETURNING 1
)
SELECT
    (SELECT COUNT(*) FROM receipts) AS receipts, (SELECT COUNT(*) FROM bodies) AS bodies, (SELECT COUNT(*) FROM secrets) AS secrets
