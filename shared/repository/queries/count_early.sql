-- Counts the next early settlements of some tenants, and the bytes of their values, errors, comments and keys. Postgres knows the size of
-- a value without reading it.
--
-- Arguments: arrays @tenants of ids and @keys, each the last idempotency key that was counted, or NULL; @limit, the largest number to count
-- for each tenant.
-- Returns: one row for each tenant, in the order of @tenants, with the last key that was counted.
-- Locks: none.
-- Indexes: idx_idempotency_key_held.
SELECT slice.counted, slice.bytes, slice.key
FROM unnest(@tenants::TEXT[], @keys::VARCHAR[]) WITH ORDINALITY AS given (tenant_id, key, place)
CROSS JOIN LATERAL (
    SELECT COUNT(*) AS counted, COALESCE(SUM(held.bytes), 0)::BIGINT AS bytes, MAX(held.key) AS key
    FROM (
        SELECT k.key,
               OCTET_LENGTH(k.key) + COALESCE(OCTET_LENGTH(k.held_value), 0) + COALESCE(OCTET_LENGTH(k.held_error), 0)
                   + COALESCE(OCTET_LENGTH(k.held_comment), 0) AS bytes
        FROM idempotency_key k
        WHERE k.tenant_id = given.tenant_id::UUID AND k.held_at IS NOT NULL AND k.key > COALESCE(given.key, '')
        ORDER BY k.key
        LIMIT @limit::INT
    ) AS held
) AS slice
ORDER BY given.place
