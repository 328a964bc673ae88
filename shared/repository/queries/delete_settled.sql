-- Deletes promises of any tenant that were settled long ago, with their idempotency keys and events. A key that has an early settlement
-- stays, without its promise. Workflow executions that become empty are deleted, too. The age counts from the time at which the settlement
-- was recorded, because engines need time to read it. Pending promises stay, and so do those with a
-- delivery that is due. The deliveries of a deleted promise are deleted with it.
--
-- Arguments: @age; @limit, the largest number of promises.
-- Returns: one row with the counts, and with the ids of the workflow executions that stayed. Concurrent batches may each delete some of an
-- execution's promises and find it not empty, so the caller gives these ids to delete_empty_workflows.sql.
-- Locks: the promises' rows, skipping locked ones, then their keys', then the workflow executions', skipping locked ones. No other statement
-- locks a workflow execution and then waits for a settled promise, so this order cannot deadlock. An execution is deleted only if its row is
-- still as it was read: otherwise a create has taken a number meanwhile.
-- Indexes: idx_promise_tenant, by tenant and outcome; delivery_promise_id_target_key.
WITH doomed AS MATERIALIZED (
    SELECT p.id, p.workflow_execution_id, p.created_by_sequence, p.resolved_by_sequence, p.settled_by_kind <> 'deadline' AS is_event
    FROM promise p
    WHERE p.id IN (
        SELECT old.id
        FROM tenant t
        CROSS JOIN (VALUES ('resolved'), ('rejected'), ('timed_out'), ('cancelled')) AS final (outcome)
        CROSS JOIN LATERAL (
            SELECT q.id
            FROM promise q
            WHERE q.tenant_id = t.id AND q.outcome = final.outcome AND q.created_at < NOW() - @age::INTERVAL
              AND q.resolved_at < NOW() - @age::INTERVAL
              AND NOT EXISTS (
                  SELECT FROM workflow_event_row e
                  WHERE e.workflow_execution_id = q.workflow_execution_id AND e.sequence_number = q.resolved_by_sequence
                    AND e.created_at >= NOW() - @age::INTERVAL
              )
              AND (
                  q.notifies IS NOT TRUE
                  OR (SELECT COUNT(*) FROM delivery v WHERE v.promise_id = q.id AND v.state = 'due') = 0 -- NOT EXISTS might read all due ones
              )
            ORDER BY q.created_at, q.id
            LIMIT @limit::INT
        ) AS old
        LIMIT @limit
    )
    FOR UPDATE SKIP LOCKED
),
parts AS MATERIALIZED ( -- of the event logs: each is read once, however many of its promises are deleted
    SELECT workflow_execution_id, MIN(created_by_sequence) AS first, MAX(resolved_by_sequence) AS last
    FROM doomed
    GROUP BY workflow_execution_id
),
emptied AS MATERIALIZED (
    SELECT workflow_execution_id AS id, -- a subquery, because a join might read the whole table
           (SELECT w.last_sequence_number FROM workflow_execution w WHERE w.id = parts.workflow_execution_id) AS last_sequence_number
    FROM parts
    WHERE NOT EXISTS (
        SELECT FROM promise q
        WHERE q.workflow_execution_id = parts.workflow_execution_id AND q.id NOT IN (SELECT id FROM doomed)
    )
),
empty AS MATERIALIZED (
    SELECT w.id
    FROM emptied
    JOIN workflow_execution w ON w.id = emptied.id AND w.last_sequence_number = emptied.last_sequence_number
    FOR UPDATE OF w SKIP LOCKED
),
events AS (
    DELETE FROM workflow_event_row e
    USING parts
    WHERE e.workflow_execution_id = parts.workflow_execution_id
      AND e.sequence_number BETWEEN parts.first AND parts.last
      AND (e.promise_id IN (SELECT id FROM doomed)) IS TRUE -- IS TRUE keeps it a hashed subplan: as a join it might not be hashed
    RETURNING 1
),
locked_keys AS MATERIALIZED (
    SELECT k.tenant_id, k.key, k.held_at IS NOT NULL AS held
    FROM idempotency_key k
    WHERE k.promise_id IN (SELECT id FROM doomed)
    FOR UPDATE
),
freed AS (
    UPDATE idempotency_key k
    SET promise_id = CASE WHEN k.held_at IS NULL THEN k.promise_id END, -- see expire_idempotency_keys.sql
        expires_at = COALESCE(k.held_until, k.expires_at), check_at = COALESCE(k.held_until, k.expires_at)
    FROM locked_keys l
    WHERE k.tenant_id = l.tenant_id AND k.key = l.key AND l.held
    RETURNING 1
),
keys AS (
    DELETE FROM idempotency_key k
    USING locked_keys l
    WHERE k.tenant_id = l.tenant_id AND k.key = l.key AND NOT l.held
    RETURNING 1
),
promises AS (
    DELETE FROM promise p
    USING doomed
    WHERE p.id = doomed.id
    RETURNING 1
),
workflows AS (
    DELETE FROM workflow_execution w
    USING empty
    WHERE w.id = empty.id
    RETURNING 1
)
SELECT
    (SELECT COUNT(*) FROM promises) AS promises,
    (SELECT COUNT(*) FROM keys) + (SELECT COUNT(*) FROM freed) AS keys,
    (SELECT COUNT(*) FROM events) + (SELECT COUNT(*) FROM doomed WHERE is_event) AS events,
    (SELECT COUNT(*) FROM workflows) AS workflows,
    (
        SELECT COALESCE(array_agg(workflow_execution_id::TEXT), '{}')
        FROM parts
        WHERE workflow_execution_id NOT IN (SELECT id FROM empty)
    ) AS workflow_execution_ids
