-- Records at most $1 deadlines that have passed, of all tenants, oldest first: each promise gets the outcome that its
-- creation named for this, or timed_out, and its workflow an event. One row: how many, how long ago the oldest of them
-- was, how long it is until the next deadline that nobody has reached yet (NULL: there is none), and a workflow execution
-- of which a deadline was passed over (NULL: none was).
--
-- Locks: the workflow executions' rows, and the promises', in the order of the deadlines; none is waited for, so that the
-- order cannot matter. What somebody else holds is passed over for the next time: a settlement that is under way may
-- still be in time. idx_promise_due.
WITH due AS MATERIALIZED (
    SELECT p.id, p.workflow_execution_id, p.created_at, p.timeout_at, w.last_sequence_number
    FROM promise p
    JOIN workflow_execution w ON w.id = p.workflow_execution_id
    WHERE p.resolved = FALSE AND p.timeout_at <= NOW()
    ORDER BY p.timeout_at
    LIMIT $1
    FOR NO KEY UPDATE SKIP LOCKED
),
ordered AS MATERIALIZED (
    SELECT due.*,
           last_sequence_number + ROW_NUMBER() OVER (PARTITION BY workflow_execution_id ORDER BY timeout_at, id) AS number
    FROM due
),
numbered AS (
    UPDATE workflow_execution w
    SET last_sequence_number = last.number
    FROM (SELECT workflow_execution_id, MAX(number) AS number FROM ordered GROUP BY workflow_execution_id) AS last
    WHERE w.id = last.workflow_execution_id
),
settled AS (
    UPDATE promise p
    SET resolved = TRUE, outcome = COALESCE(p.timeout_outcome, 'timed_out'), value = p.timeout_value, error = p.timeout_error,
        resolved_at = p.timeout_at, resolved_by_sequence = ordered.number, settled_by_kind = 'deadline'
    FROM ordered
    WHERE p.id = ordered.id AND NOT p.resolved
    RETURNING p.id
),
logged AS (
    INSERT INTO workflow_event_row (workflow_execution_id, sequence_number, event_type, promise_id, created_at)
    SELECT ordered.workflow_execution_id, ordered.number, 'PROMISE_TIMEOUT',
           COALESCE(settled.id, promise_race_lost(ordered.id)), CLOCK_TIMESTAMP()
    FROM ordered
    LEFT JOIN settled ON settled.id = ordered.id
)
SELECT
    (SELECT COUNT(*) FROM ordered) AS expired,
    (SELECT COALESCE(CLOCK_TIMESTAMP() - MIN(GREATEST(timeout_at, created_at)), INTERVAL '0') FROM ordered) AS lateness,
    (SELECT MIN(timeout_at) FROM promise WHERE resolved = FALSE AND timeout_at > NOW()) - CLOCK_TIMESTAMP() AS next,
    (
        SELECT p.workflow_execution_id
        FROM promise p
        WHERE p.resolved = FALSE AND p.timeout_at <= NOW() AND p.id NOT IN (SELECT id FROM ordered)
        ORDER BY p.timeout_at
        LIMIT 1
    ) AS passed_over
