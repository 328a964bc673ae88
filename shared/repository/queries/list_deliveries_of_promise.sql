-- Lists the deliveries of a promise, newest first.
--
-- Arguments: @tenant, a slug; @promise, its id; @destination, @state, @after_at, @after_id and @limit, as in list_deliveries.sql.
-- Returns: as list_deliveries.sql. No row if nothing matches, or if the tenant has no such promise.
-- Locks: none.
-- Indexes: delivery_promise_id_target_key, destination_pkey.
SELECT
    v.id, v.promise_id, d.name AS destination, d.kind, v.state, v.attempts, v.created_at, v.due_at, v.last_attempt_at, v.last_status,
    v.last_error, v.ended_at, v.end_reason
FROM tenant t
JOIN delivery v ON v.tenant_id = t.id
JOIN destination d ON d.id = v.destination_id
WHERE t.slug = @tenant AND t.suspended_at IS NULL
  AND v.promise_id = @promise::UUID
  AND (@destination::VARCHAR IS NULL OR d.name = @destination AND d.deleted_at IS NULL)
  AND (@state::VARCHAR IS NULL OR v.state = @state)
  AND (v.created_at, v.id) < (
      COALESCE(@after_at::TIMESTAMPTZ, 'infinity'), COALESCE(@after_id::UUID, 'ffffffff-ffff-ffff-ffff-ffffffffffff')
  )
ORDER BY v.created_at DESC, v.id DESC
LIMIT @limit::INT
