-- Records at most $2 deadlines of one workflow execution ($1) that have passed, as expire.sql does, but waits its turn: a
-- workflow that is always busy would be passed over for ever. One row: as there.
--
-- Locks: the workflow execution's row, then the promises'. workflow_execution_pkey, idx_promise_pending.
WITH workflow AS MATERIALIZED (
    SELECT id, last_sequence_number FROM workflow_execution WHERE id = $1::UUID FOR NO KEY UPDATE
),
due AS MATERIALIZED (
    SELECT p.id, p.workflow_execution_id, p.created_at, p.timeout_at, w.last_sequence_number
    FROM workflow w
    JOIN promise p ON p.workflow_execution_id = w.id
    WHERE p.resolved = FALSE AND p.timeout_at <= NOW()
    ORDER BY p.timeout_at
    LIMIT $2
    FOR NO KEY UPDATE OF p
),
ordered AS MATERIALIZED (
    SELECT due.*, last_sequence_number + ROW_NUMBER() OVER (ORDER BY timeout_at, id) AS number
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
    NULL::INTERVAL AS next,
    NULL::UUID AS passed_over
