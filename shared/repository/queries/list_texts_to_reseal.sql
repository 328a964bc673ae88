-- Lists encrypted texts that a sealing key other than the first has encrypted: secrets of destinations, then secrets of sources, then kept bodies.
--
-- Arguments: @prefix, the first nine bytes of the texts that the first key seals; @limit; @bytes, the largest size of all texts together.
-- Returns: at most @limit rows. The first one may be larger than @bytes.
-- Locks: none.
-- Indexes: idx_destination_secret_key, idx_source_secret_key, idx_receipt_body_key. Only the texts that are returned are read.
WITH due AS (
    (
        SELECT 1 AS place, 'destination_secret.sealed' AS purpose, destination_id AS row_id, version AS version, sealed
        FROM destination_secret
        WHERE SUBSTRING(sealed FROM 1 FOR 9) < @prefix::BYTEA
        ORDER BY SUBSTRING(sealed FROM 1 FOR 9)
        LIMIT @limit::INT
    )
    UNION ALL
    (
        SELECT 1 AS place, 'destination_secret.sealed' AS purpose, destination_id AS row_id, version AS version, sealed
        FROM destination_secret
        WHERE SUBSTRING(sealed FROM 1 FOR 9) > @prefix::BYTEA
        ORDER BY SUBSTRING(sealed FROM 1 FOR 9)
        LIMIT @limit::INT
    )
    UNION ALL
    (
        SELECT 2 AS place, 'source_secret.sealed' AS purpose, source_id AS row_id, version AS version, sealed
        FROM source_secret
        WHERE SUBSTRING(sealed FROM 1 FOR 9) < @prefix::BYTEA
        ORDER BY SUBSTRING(sealed FROM 1 FOR 9)
        LIMIT @limit::INT
    )
    UNION ALL
    (
        SELECT 2 AS place, 'source_secret.sealed' AS purpose, source_id AS row_id, version AS version, sealed
        FROM source_secret
        WHERE SUBSTRING(sealed FROM 1 FOR 9) > @prefix::BYTEA
        ORDER BY SUBSTRING(sealed FROM 1 FOR 9)
        LIMIT @limit::INT
    )
    UNION ALL
    (
        SELECT 3 AS place, 'receipt_body.sealed' AS purpose, id AS row_id, 1 AS version, sealed
        FROM receipt_body
        WHERE SUBSTRING(sealed FROM 1 FOR 9) < @prefix::BYTEA
        ORDER BY SUBSTRING(sealed FROM 1 FOR 9)
        LIMIT @limit::INT
    )
    UNION ALL
    (
        SELECT 3 AS place, 'receipt_body.sealed' AS purpose, id AS row_id, 1 AS version, sealed
        FROM receipt_body
        WHERE SUBSTRING(sealed FROM 1 FOR 9) > @prefix::BYTEA
        ORDER BY SUBSTRING(sealed FROM 1 FOR 9)
        LIMIT @limit::INT
    )
),
bounded AS (
    SELECT
        place, purpose, row_id, version, sealed, OCTET_LENGTH(sealed) AS size,
        SUM(OCTET_LENGTH(sealed)) OVER (ORDER BY place, row_id, version) AS total
    FROM due
    ORDER BY place, row_id, version
    LIMIT @limit
)
SELECT purpose, row_id, version, sealed FROM bounded WHERE total <= @bytes::INT OR total = size
