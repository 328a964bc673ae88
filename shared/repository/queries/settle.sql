-- Settles a promise, by id ($2) or, where that is NULL, by idempotency key ($3), in one statement.
-- $1 slug, $4 outcome, $5 value, $6 error, $7 and $8 kind and id of who settles, $9 comment. No row: there is no such promise
-- for this tenant. The settled row is its own event: idx_promise_settled.
--
-- Locks: the workflow execution's row, which hands out the number, then the promise's. target reads the snapshot
-- without a lock, which is final unless it says pending. The deadline is judged again with the lock held, by a clock
-- read under it. Whoever waited for the lock in vain finds nothing left to settle: promise_race_lost then rolls the
-- statement back, and it is to be run again, by the id that it names: the key may belong to another promise by now.
WITH target AS MATERIALIZED (
    SELECT
        p.id,
        p.workflow_execution_id,
        p.resolved,
        CASE
            WHEN p.resolved THEN p.outcome
            WHEN p.timeout_at <= NOW() THEN COALESCE(p.timeout_outcome, 'timed_out')
            ELSE 'pending'
        END AS state,
        CASE WHEN p.resolved THEN p.outcome = 'timed_out' OR p.settled_by_kind = 'deadline' ELSE p.timeout_at <= NOW() END
            AS by_deadline,
        p.outcome = $4::VARCHAR AND p.value IS NOT DISTINCT FROM $5::BYTEA AND p.error IS NOT DISTINCT FROM $6::TEXT
            AS same
    FROM tenant t
    JOIN promise p ON p.tenant_id = t.id
    WHERE t.slug = $1
      AND p.id = COALESCE($2::UUID, (
          SELECT k.promise_id
          FROM idempotency_key k
          JOIN promise q ON q.id = k.promise_id
          WHERE k.tenant_id = (SELECT id FROM tenant WHERE slug = $1)
            AND k.key = $3::VARCHAR
            AND (k.expires_at > NOW() OR NOT q.resolved AND (q.timeout_at IS NULL OR q.timeout_at > NOW()))
      ))
),
numbered AS (
    UPDATE workflow_execution w
    SET last_sequence_number = w.last_sequence_number + 1
    FROM target
    WHERE w.id = target.workflow_execution_id AND target.state = 'pending'
    RETURNING w.id, w.last_sequence_number, target.id AS promise_id, CLOCK_TIMESTAMP() AS at
),
settled AS (
    UPDATE promise p
    SET resolved = TRUE, outcome = $4, value = $5, error = $6,
        resolved_at = numbered.at, resolved_by_sequence = numbered.last_sequence_number,
        settled_by_kind = $7, settled_by_id = $8, comment = $9
    FROM numbered
    WHERE p.id = numbered.promise_id
      AND NOT p.resolved
      AND (p.timeout_at IS NULL OR p.timeout_at > numbered.at)
    RETURNING p.id
)
SELECT
    target.id AS promise_id,
    target.workflow_execution_id,
    target.state,
    COALESCE(target.by_deadline, FALSE) AS by_deadline,
    COALESCE(target.same, FALSE) AS same,
    CASE WHEN numbered.promise_id IS NOT NULL THEN COALESCE(settled.id, promise_race_lost(numbered.promise_id)) END IS NOT NULL
        AS settled,
    COALESCE(target.by_deadline, FALSE) AND NOT target.resolved AS overdue
FROM target
LEFT JOIN numbered ON TRUE
LEFT JOIN settled ON TRUE
