-- Deletes leases that ended a minute ago: their relays were stopped.
--
-- Arguments: @limit, the largest number of leases.
-- Locks: the leases' rows, skipping locked ones.
-- Indexes: idx_delivery_lease_expires, delivery_lease_pkey.
DELETE FROM delivery_lease l
WHERE l.id = ANY (ARRAY(
    SELECT q.id
    FROM delivery_lease q
    WHERE q.expires_at < NOW() - INTERVAL '1 minute'
    ORDER BY q.expires_at
    LIMIT @limit::INT
    FOR UPDATE SKIP LOCKED
))
