-- Records at most @limit deadlines that have passed, of any tenant. Each promise gets the outcome that its creation named for its deadline, or
-- timed_out, and its workflow gets an event. The value stays in timeout_value.
--
-- If fewer than @limit deadlines are due, the batch takes them all. If more are due, it takes the first deadline of each tenant, then the second
-- of each tenant, and so on, so that one tenant's early deadlines cannot delay the others. A deadline that was in the past when its promise
-- was created counts from the creation.
--
-- Returns: one row.
--   expired   the number of recorded deadlines
--   lateness  the age of the oldest of them
--   next      the time until the next deadline, or NULL
--   more      TRUE if others are due and this batch recorded some
--   skipped   a workflow execution with a due deadline that was not recorded, or NULL
-- Locks: for each promise its workflow execution's row, then the promise's FOR UPDATE. promise_await_settlements relies on this order. Locked
-- rows are skipped until the next batch, so the order of the promises cannot cause a deadlock. The settlement that has locked such a row may
-- still be in time. Behind locked workflows a batch reads no more than 4 * @limit deadlines.
-- Indexes: idx_promise_due, idx_promise_due_by_tenant, workflow_execution_pkey, promise_pkey.
WITH oldest AS MATERIALIZED (
    SELECT p.id, p.workflow_execution_id, GREATEST(p.timeout_at, p.created_at) AS since
    FROM promise p
    WHERE p.resolved = FALSE AND p.timeout_at <= NOW()
    ORDER BY p.timeout_at
    LIMIT @limit::INT
),
backlog AS MATERIALIZED ( -- the tenants with due deadlines, if more are due than a batch takes
    SELECT t.id
    FROM tenant t
    CROSS JOIN LATERAL (
        SELECT FROM promise p
        WHERE p.tenant_id = t.id AND p.outcome IS NULL AND p.timeout_at <= NOW()
        ORDER BY p.timeout_at, p.id -- the order of idx_promise_due_by_tenant
        LIMIT 1
    ) AS due
    WHERE (SELECT COUNT(*) FROM oldest) = @limit
),
candidate AS MATERIALIZED (
    SELECT * FROM (
        SELECT oldest.*, 1 AS turn FROM oldest WHERE NOT EXISTS (SELECT FROM backlog)
        UNION ALL
        SELECT first.id, first.workflow_execution_id, first.since, ROW_NUMBER() OVER (PARTITION BY backlog.id ORDER BY first.timeout_at, first.id)
        FROM backlog
        CROSS JOIN LATERAL (
            SELECT p.id, p.workflow_execution_id, p.timeout_at, GREATEST(p.timeout_at, p.created_at) AS since
            FROM promise p
            WHERE p.tenant_id = backlog.id AND p.outcome IS NULL AND p.timeout_at <= NOW()
            ORDER BY p.timeout_at, p.id
            LIMIT (SELECT CEIL(4.0 * @limit / COUNT(*)) FROM backlog)
        ) AS first
    ) AS due
    ORDER BY turn, since, id
),
workflow AS MATERIALIZED (
    SELECT candidate.id, w.last_sequence_number
    FROM candidate
    CROSS JOIN LATERAL (
        SELECT v.last_sequence_number FROM workflow_execution v WHERE v.id = candidate.workflow_execution_id FOR NO KEY UPDATE SKIP LOCKED
    ) AS w
    LIMIT @limit
),
due AS MATERIALIZED (
    SELECT p.*, workflow.last_sequence_number
    FROM workflow
    CROSS JOIN LATERAL (
        SELECT q.id, q.workflow_execution_id, q.created_at, q.timeout_at
        FROM promise q
        WHERE q.id = workflow.id AND q.resolved = FALSE AND q.timeout_at <= NOW()
        FOR UPDATE SKIP LOCKED
    ) AS p
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
    (SELECT MIN(timeout_at) FROM promise WHERE resolved = FALSE AND timeout_at > NOW()) - CLOCK_TIMESTAMP() AS next,
    EXISTS (SELECT FROM backlog) AND EXISTS (SELECT FROM ordered) AS more,
    (
        SELECT c.workflow_execution_id
        FROM candidate c
        WHERE c.id NOT IN (SELECT id FROM ordered)
        ORDER BY c.since
        LIMIT 1
    ) AS skipped
