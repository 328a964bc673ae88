-- Moves a pending promise's deadline. The deadline that the promise already has is not set again.
--
-- Arguments: @tenant, a slug; @id or, if that is NULL, idempotency @key; the deadline: @timeout, counted from now, or @timeout_at, a
-- moment.
-- Returns: the promise after the call; pending: it was pending; extended: this call moved its deadline. No row if the tenant has no such
-- promise.
-- Locks: the workflow execution's row, then the promise's. A call that waited while another one set the same deadline has lost the race, and
-- raises promise_race_lost.
-- Indexes: promise_pkey, idempotency_key_pkey, workflow_execution_pkey.
WITH target AS MATERIALIZED (
    SELECT p.id, p.workflow_execution_id, p.timeout_at, NOT p.resolved AND (p.timeout_at IS NULL OR p.timeout_at > NOW()) AS pending
    FROM tenant t
    JOIN promise p ON p.tenant_id = t.id
    WHERE t.slug = @tenant AND t.suspended_at IS NULL
      AND p.id = COALESCE(@id::UUID, (
          SELECT k.promise_id
          FROM idempotency_key k
          JOIN promise q ON q.id = k.promise_id
          WHERE k.tenant_id = (SELECT id FROM tenant WHERE slug = @tenant)
            AND k.key = @key::VARCHAR
            AND promise_key_names(k.expires_at, q.resolved, q.resolved_at, q.timeout_at, NOW())
      ))
),
numbered AS (
    UPDATE workflow_execution w
    SET last_sequence_number = w.last_sequence_number + 1
    FROM target
    WHERE w.id = target.workflow_execution_id AND target.pending
      AND (@timeout_at::TIMESTAMPTZ IS NULL OR target.timeout_at IS DISTINCT FROM @timeout_at)
    RETURNING w.id, w.last_sequence_number, target.id AS promise_id, CLOCK_TIMESTAMP() AS at
),
extended AS (
    UPDATE promise p
    SET timeout_at = COALESCE(@timeout_at::TIMESTAMPTZ, numbered.at + @timeout::INTERVAL)
    FROM numbered
    WHERE p.id = numbered.promise_id
      AND NOT p.resolved
      AND (p.timeout_at IS NULL OR p.timeout_at > numbered.at)
      AND (@timeout_at IS NULL OR p.timeout_at IS DISTINCT FROM @timeout_at)
    RETURNING p.id, p.timeout_at
),
logged AS (
    INSERT INTO workflow_event_row (workflow_execution_id, sequence_number, event_type, promise_id, created_at, timeout_at)
    SELECT numbered.id, numbered.last_sequence_number, 'PROMISE_EXTENDED',
           COALESCE(extended.id, promise_race_lost(numbered.promise_id)), numbered.at, extended.timeout_at
    FROM numbered
    LEFT JOIN extended ON TRUE
)
SELECT
    p.id, p.workflow_execution_id, p.name, p.outcome, p.value, p.error,
    CASE WHEN extended.id IS NULL THEN p.timeout_at ELSE extended.timeout_at END AS timeout_at,
    p.created_at, p.resolved_at, p.created_by_sequence, p.resolved_by_sequence, p.metadata, p.idempotency_key,
    p.timeout_outcome, p.timeout_value, p.timeout_error, p.settled_by_kind, p.settled_by_id, p.comment, p.erased_at,
    (SELECT w.external_id FROM workflow_execution w WHERE w.id = p.workflow_execution_id) AS external_id,
    CLOCK_TIMESTAMP() AS read_at, target.pending, extended.id IS NOT NULL AS extended
FROM target
JOIN promise p ON p.id = target.id
LEFT JOIN extended ON TRUE
