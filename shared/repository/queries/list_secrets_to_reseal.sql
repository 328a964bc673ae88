-- Lists secrets of any destination that a sealing key other than the first has encrypted.
--
-- Arguments: @prefix, the first nine bytes of the texts that the first key seals; @limit.
-- Returns: at most @limit rows.
-- Locks: none.
-- Indexes: idx_destination_secret_key.
(
    SELECT destination_id, version, sealed
    FROM destination_secret
    WHERE SUBSTRING(sealed FROM 1 FOR 9) < @prefix::BYTEA
    ORDER BY SUBSTRING(sealed FROM 1 FOR 9)
    LIMIT @limit::INT
)
UNION ALL
(
    SELECT destination_id, version, sealed
    FROM destination_secret
    WHERE SUBSTRING(sealed FROM 1 FOR 9) > @prefix
    ORDER BY SUBSTRING(sealed FROM 1 FOR 9)
    LIMIT @limit
)
LIMIT @limit
