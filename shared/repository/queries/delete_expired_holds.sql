-- Deletes at most $1 held settlements for which no promise came in time, and tells whose they were.
-- Locks: the keys' rows, those that somebody else holds are left for the next time. idx_idempotency_key_expires.
DELETE FROM idempotency_key k
USING tenant t
WHERE t.id = k.tenant_id
  AND (k.tenant_id, k.key) IN (
      SELECT e.tenant_id, e.key
      FROM idempotency_key e
      WHERE e.promise_id IS NULL AND e.expires_at <= NOW()
      ORDER BY e.expires_at
      LIMIT $1
      FOR UPDATE SKIP LOCKED
  )
RETURNING t.slug AS tenant, k.key
