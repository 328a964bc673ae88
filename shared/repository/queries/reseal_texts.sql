-- Replaces encrypted texts by the same texts, encrypted by another key. A text that has changed meanwhile stays as it is.
--
-- Arguments: @purposes, @rows, @versions, @olds and @news, arrays with one element for each text.
-- Returns: one row with the number of texts that were replaced.
-- Locks: the rows of the texts.
-- Indexes: destination_secret_pkey, source_secret_pkey, receipt_body_pkey.
WITH news AS MATERIALIZED (
    SELECT *
    FROM UNNEST(@purposes::VARCHAR[], @rows::UUID[], @versions::INT[], @olds::BYTEA[], @news::BYTEA[]) AS n (purpose, row_id, version, old, sealed)
),
destinations AS (
    UPDATE destination_secret s
    SET sealed = n.sealed
    FROM news n
    WHERE n.purpose = 'destination_secret.sealed' AND s.destination_id = n.row_id AND s.version = n.version AND s.sealed = n.old
    RETURNING 1
),
sources AS (
    UPDATE source_secret s
    SET sealed = n.sealed
    FROM news n
    WHERE n.purpose = 'source_secret.sealed' AND s.source_id = n.row_id AND s.version = n.version AND s.sealed = n.old
    RETURNING 1
),
bodies AS (
    UPDATE receipt_body s
    SET sealed = n.sealed
    FROM news n
    WHERE n.purpose = 'receipt_body.sealed' AND s.id = n.row_id AND s.sealed = n.old
    RETURNING 1
)
SELECT (SELECT COUNT(*) FROM destinations) + (SELECT COUNT(*) FROM sources) + (SELECT COUNT(*) FROM bodies) AS changed
