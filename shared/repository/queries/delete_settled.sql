-- Deletes at most $2 promises that have been settled for longer than $1, of all tenants, with their keys and events.
-- Nothing that is pending. How long counts from when the settlement was recorded: engines must have had the time to read
-- it. One row, with the workflow executions that may be empty now.
--
-- Locks: the promises' rows, then their keys'. What somebody else holds is left for the next time. idx_promise_tenant, by
-- tenant and outcome.
WITH doomed AS MATERIALIZED (
    SELECT p.id, p.workflow_execution_id, p.created_by_sequence, p.resolved_by_sequence
    FROM promise p
    WHERE p.id IN (
        SELECT old.id
        FROM tenant t
        CROSS JOIN (VALUES ('resolved'), ('rejected'), ('timed_out'), ('cancelled')) AS final (outcome)
        CROSS JOIN LATERAL (
            SELECT q.id
            FROM promise q
            WHERE q.tenant_id = t.id AND q.outcome = final.outcome AND q.created_at < NOW() - $1::INTERVAL
              AND q.resolved_at < NOW() - $1::INTERVAL
              AND NOT EXISTS (
                  SELECT FROM workflow_event e
                  WHERE e.workflow_execution_id = q.workflow_execution_id AND e.sequence_number = q.resolved_by_sequence
                    AND e.created_at >= NOW() - $1::INTERVAL
              )
            ORDER BY q.created_at, q.id
            LIMIT $2::INT
        ) AS old
        LIMIT $2
    )
    FOR UPDATE SKIP LOCKED
),
parts AS MATERIALIZED ( -- of the logs, each read once however many of its promises go
    SELECT workflow_execution_id, MIN(created_by_sequence) AS first, MAX(resolved_by_sequence) AS last
    FROM doomed
    GROUP BY workflow_execution_id
),
events AS (
    DELETE FROM workflow_event e
    USING parts
    WHERE e.workflow_execution_id = parts.workflow_execution_id
      AND e.sequence_number BETWEEN parts.first AND parts.last
      AND (e.promise_id IN (SELECT id FROM doomed)) IS TRUE -- which is hashed; bare, it is a join that may not be
    RETURNING 1
),
keys AS (
    DELETE FROM idempotency_key k
    USING doomed
    WHERE k.promise_id = doomed.id
    RETURNING 1
),
promises AS (
    DELETE FROM promise p
    USING doomed
    WHERE p.id = doomed.id
    RETURNING 1
)
SELECT
    (SELECT COUNT(*) FROM promises) AS promises,
    (SELECT COUNT(*) FROM keys) AS keys,
    (SELECT COUNT(*) FROM events) AS events,
    (SELECT COALESCE(array_agg(workflow_execution_id::TEXT), '{}') FROM parts) AS workflow_execution_ids
