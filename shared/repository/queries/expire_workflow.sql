-- Records at most @limit deadlines of one workflow execution that have passed, as expire.sql does. It waits for the workflow execution's row,
-- because a workflow that is always busy would otherwise be skipped for ever.
--
-- Arguments: @workflow, the workflow execution's id; @limit, the largest number of deadlines.
-- Returns: one row, as expire.sql.
-- Locks: the workflow execution's row, then the promises' FOR UPDATE, skipping locked ones.
-- Indexes: workflow_execution_pkey, promise_pkey, and idx_promise_due_by_tenant, by which it reads the tenant's due deadlines instead of all
-- pending promises of the workflow.
WITH workflow AS MATERIALIZED (
    SELECT id, tenant_id, last_sequence_number FROM workflow_execution WHERE id = @workflow::UUID FOR NO KEY UPDATE
),
candidate AS MATERIALIZED (
    SELECT p.id, w.last_sequence_number
    FROM workflow w
    CROSS JOIN LATERAL (
        SELECT q.id, q.workflow_execution_id
        FROM promise q
        WHERE q.tenant_id = w.tenant_id AND q.outcome IS NULL AND q.timeout_at <= NOW()
        ORDER BY q.timeout_at, q.id
        OFFSET 0 -- a barrier: the planner keeps the next condition and other indexes out of this
    ) AS p
    WHERE p.workflow_execution_id = w.id
    LIMIT @limit::INT
),
due AS MATERIALIZED (
    SELECT p.*, candidate.last_sequence_number
    FROM candidate
    CROSS JOIN LATERAL (
        SELECT q.id, q.workflow_execution_id, q.created_at, q.timeout_at
        FROM promise q
        WHERE q.id = candidate.id AND q.resolved = FALSE AND q.timeout_at <= NOW()
        FOR UPDATE SKIP LOCKED
    ) AS p
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
    SET resolved = TRUE, outcome = promise_deadline_outcome(p.timeout_outcome),
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
    FALSE AS more,
    NULL::UUID AS skipped
