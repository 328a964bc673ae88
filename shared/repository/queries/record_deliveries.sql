-- Records the results of the deliveries that a lease holds, and ends the lease. A delivery that another statement has taken from the lease is
-- left as it is.
--
-- Arguments:
--   @lease                      the lease's id
--   @destination                the destination of its deliveries
--   @seen                       its updated_at when they were claimed
--   @disabled_because           why the destination is disabled, or NULL. If it has changed since @seen, it stays as it is: the answer may be one
--                               that its tenant has already repaired
--   @ids, @states, @delays, @counted, @unanswered, @statuses, @errors, @reasons
--                               for each delivery: its id; its new state; the time until it is due; whether this was an attempt; whether its
--                               result is unknown, so that it keeps the lease's mark; the HTTP status, the error and the reason of its end, or
--                               NULL
--
-- Returns: the id of each delivery that was recorded.
-- Locks: the destination's row, if it is disabled; then the deliveries' rows in the order of promise and target, as promise_erase does; then the
-- lease's.
-- Indexes: destination_pkey, delivery_pkey, delivery_lease_pkey.
WITH disabled AS MATERIALIZED (
    UPDATE destination d
    SET enabled = FALSE, disabled_because = @disabled_because::VARCHAR, updated_at = NOW()
    WHERE @disabled_because::VARCHAR IS NOT NULL AND d.id = @destination::UUID AND d.updated_at = @seen::TIMESTAMPTZ AND d.enabled
      AND d.deleted_at IS NULL
      AND EXISTS (SELECT FROM delivery v WHERE v.id = ANY (@ids::UUID[]) AND v.lease = @lease::UUID)
    RETURNING d.id
),
held AS MATERIALIZED (
    SELECT v.id
    FROM delivery v
    WHERE v.id = ANY (@ids::UUID[]) AND v.lease = @lease::UUID AND v.state = 'due' AND (SELECT COUNT(*) FROM disabled) >= 0
    ORDER BY v.promise_id, v.target
    FOR UPDATE
),
result AS MATERIALIZED (
    SELECT r.*
    FROM UNNEST(
        @ids::UUID[], @states::VARCHAR[], @delays::INTERVAL[], @counted::BOOLEAN[], @unanswered::BOOLEAN[], @statuses::INT[], @errors::VARCHAR[],
        @reasons::VARCHAR[]
    ) AS r (id, state, delay, counted, unanswered, status, error, reason)
    JOIN held ON held.id = r.id
),
recorded AS (
    UPDATE delivery v
    SET state = r.state,
        due_at = CASE WHEN r.state = 'due' THEN NOW() + r.delay END,
        lease = CASE WHEN r.unanswered THEN v.lease END,
        attempts = v.attempts + r.counted::INT,
        last_attempt_at = CASE WHEN r.counted THEN NOW() ELSE v.last_attempt_at END,
        last_status = COALESCE(r.status, v.last_status),
        last_error = COALESCE(r.error, v.last_error),
        ended_at = CASE WHEN r.state <> 'due' THEN NOW() END,
        end_reason = r.reason
    FROM result r
    WHERE v.id = r.id
    RETURNING v.id
),
ended AS (
    DELETE FROM delivery_lease l WHERE l.id = @lease::UUID
)
SELECT id FROM recorded
