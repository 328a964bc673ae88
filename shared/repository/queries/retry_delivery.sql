-- Makes a delivery due now, with all its attempts ahead, if it may be sent again: see promise.CheckRetry. A due delivery that a relay is sending
-- stays as it is.
--
-- Arguments: @tenant, a slug; @id, the delivery's id.
-- Returns: the delivery as it is after the call; destination_deleted; retried, whether the call made it due. No row if the tenant has no such
-- delivery.
-- Locks: the delivery's row. It waits for a relay that claims it or records its result. A relay records a result only under its own lease, so a
-- delivery that the call made due is sent once more, whatever a former attempt brings.
-- Indexes: delivery_pkey, destination_pkey.
WITH found AS MATERIALIZED (
    SELECT
        v.id, v.promise_id, d.name AS destination, d.kind, v.state, v.attempts, v.created_at, v.due_at, v.last_attempt_at, v.last_status,
        v.last_error, v.ended_at, v.end_reason, d.deleted_at IS NOT NULL AS destination_deleted,
        d.deleted_at IS NULL AND CASE v.state
            WHEN 'dead' THEN TRUE
            WHEN 'due' THEN v.lease IS NULL OR v.due_at <= CLOCK_TIMESTAMP()
            WHEN 'delivered' THEN d.kind NOT IN ('stepFunctions', 'durableExecution')
            ELSE FALSE
        END AS retried
    FROM tenant t
    JOIN delivery v ON v.tenant_id = t.id AND v.id = @id::UUID
    JOIN destination d ON d.id = v.destination_id
    WHERE t.slug = @tenant AND t.suspended_at IS NULL
    FOR UPDATE OF v
),
retried AS (
    UPDATE delivery v
    SET state = 'due', due_at = CLOCK_TIMESTAMP(), attempts = 0, lease = NULL, ended_at = NULL, end_reason = NULL
    FROM found f
    WHERE v.id = f.id AND f.retried
    RETURNING v.id, v.state, v.attempts, v.due_at, v.ended_at, v.end_reason
)
SELECT
    f.id, f.promise_id, f.destination, f.kind, COALESCE(r.state, f.state) AS state, COALESCE(r.attempts, f.attempts) AS attempts, f.created_at,
    COALESCE(r.due_at, f.due_at) AS due_at, f.last_attempt_at, f.last_status, f.last_error,
    CASE WHEN r.id IS NULL THEN f.ended_at END AS ended_at, CASE WHEN r.id IS NULL THEN f.end_reason END AS end_reason,
    f.destination_deleted, f.retried
FROM found f
LEFT JOIN retried r ON r.id = f.id
