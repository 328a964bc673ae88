-- Settles many promises, each independently of the others.
--
-- Arguments: @tenant, a slug; arrays with an element for each item: @ids and idempotency @keys, of which one is NULL, @outcomes, @values,
-- @errors and @comments; @kind and @by, the kind and the id of the caller. @by and elements of the last three arrays may be NULL.
-- Returns: one row for each item, in order, with the promise as the batch found it. promise_id is NULL if the tenant has no such promise.
-- settled is TRUE for the first item of a promise that was pending; later items of the same promise find it settled.
-- by_deadline is TRUE if the deadline settled the promise, same if the stored settlement equals the item's.
-- Locks: the workflow executions' rows in the order of their ids, then the promises'. A lost race must not undo the other items, so this
-- statement, unlike settle.sql, decides by the rows that it has locked. It reads changes since the snapshot under the lock, and judges the
-- deadline by a clock that it reads when all rows are locked. An expired key still names its promise if the promise, once locked, turns
-- out to be pending.
-- Indexes: promise_pkey, idempotency_key_pkey, workflow_execution_pkey.
WITH caller AS MATERIALIZED (
    SELECT id AS tenant_id FROM tenant WHERE slug = @tenant AND suspended_at IS NULL
),
item AS MATERIALIZED (
    SELECT i.n, i.key, i.outcome, i.value, i.error, i.comment, COALESCE(i.id::UUID, (
        SELECT k.promise_id
        FROM idempotency_key k
        JOIN promise q ON q.id = k.promise_id
        WHERE k.tenant_id = caller.tenant_id
          AND k.key = i.key
          AND (NOT q.resolved OR promise_key_names(k.expires_at, q.resolved, q.resolved_at, q.timeout_at, NOW()))
    )) AS promise_id
    FROM caller
    CROSS JOIN unnest(@ids::TEXT[], @keys::VARCHAR[], @outcomes::VARCHAR[], @values::BYTEA[], @errors::TEXT[], @comments::VARCHAR[]) WITH ORDINALITY
        AS i (id, key, outcome, value, error, comment, n)
),
seen AS MATERIALIZED (
    SELECT p.id, p.workflow_execution_id, p.resolved
    FROM caller
    JOIN promise p ON p.tenant_id = caller.tenant_id AND p.id IN (SELECT promise_id FROM item)
),
workflow AS MATERIALIZED (
    SELECT w.id, w.last_sequence_number
    FROM workflow_execution w
    WHERE w.id IN (SELECT workflow_execution_id FROM seen WHERE NOT resolved)
    ORDER BY w.id
    FOR NO KEY UPDATE
),
locked AS MATERIALIZED (
    SELECT p.id, p.workflow_execution_id, p.resolved, p.outcome, p.value, p.error, p.timeout_at, p.timeout_outcome,
           p.settled_by_kind, w.last_sequence_number
    FROM workflow w
    JOIN promise p ON p.workflow_execution_id = w.id
    WHERE p.id IN (SELECT id FROM seen WHERE NOT resolved)
    FOR NO KEY UPDATE OF p
),
moment AS MATERIALIZED (
    SELECT CLOCK_TIMESTAMP() AS at FROM (SELECT COUNT(*) FROM locked) AS all_locked
),
current_state AS MATERIALIZED (
    SELECT
        l.id, l.workflow_execution_id, l.last_sequence_number, l.value, l.error,
        CASE
            WHEN l.resolved THEN l.outcome
            WHEN l.timeout_at <= moment.at THEN promise_deadline_outcome(l.timeout_outcome)
            ELSE 'pending'
        END AS state,
        CASE WHEN l.resolved THEN promise_by_deadline(l.outcome, l.settled_by_kind) ELSE l.timeout_at <= moment.at END AS by_deadline
    FROM locked l
    CROSS JOIN moment
    UNION ALL
    SELECT p.id, p.workflow_execution_id, NULL, p.value, p.error, p.outcome,
           promise_by_deadline(p.outcome, p.settled_by_kind)
    FROM seen
    JOIN promise p ON p.id = seen.id
    WHERE seen.resolved
),
winner AS MATERIALIZED (
    SELECT
        w.n, w.outcome, w.value, w.error, w.comment, current_state.id, current_state.workflow_execution_id,
        current_state.last_sequence_number + ROW_NUMBER() OVER (PARTITION BY current_state.workflow_execution_id ORDER BY w.n) AS number
    FROM (
        SELECT DISTINCT ON (promise_id) promise_id, n, outcome, value, error, comment
        FROM item
        ORDER BY promise_id, n
    ) AS w
    JOIN current_state ON current_state.id = w.promise_id
    WHERE current_state.state = 'pending'
),
numbered AS (
    UPDATE workflow_execution w
    SET last_sequence_number = last.number
    FROM (SELECT workflow_execution_id, MAX(number) AS number FROM winner GROUP BY workflow_execution_id) AS last
    WHERE w.id = last.workflow_execution_id
),
settled AS (
    UPDATE promise p
    SET resolved = TRUE, outcome = winner.outcome, value = winner.value, error = winner.error,
        resolved_at = moment.at, resolved_by_sequence = winner.number,
        settled_by_kind = @kind, settled_by_id = @by, comment = winner.comment
    FROM winner
    CROSS JOIN moment
    WHERE p.id = winner.id AND NOT p.resolved
    RETURNING p.id
)
SELECT
    CASE WHEN item.key IS NULL OR current_state.state = 'pending' OR EXISTS (
        SELECT FROM caller
        JOIN idempotency_key k ON k.tenant_id = caller.tenant_id AND k.key = item.key
        JOIN promise q ON q.id = k.promise_id
        WHERE promise_key_names(k.expires_at, q.resolved, q.resolved_at, q.timeout_at, NOW())
    ) THEN current_state.id END AS promise_id,
    COALESCE(current_state.state, 'pending') AS state,
    COALESCE(current_state.by_deadline, FALSE) AS by_deadline,
    COALESCE(
        current_state.state = item.outcome AND current_state.value IS NOT DISTINCT FROM item.value
            AND current_state.error IS NOT DISTINCT FROM item.error,
        FALSE
    ) AS same,
    CASE WHEN winner.n IS NOT NULL THEN COALESCE(settled.id, promise_race_lost(winner.id)) END IS NOT NULL AS settled
FROM item
LEFT JOIN current_state ON current_state.id = item.promise_id
LEFT JOIN winner ON winner.n = item.n
LEFT JOIN settled ON settled.id = winner.id
ORDER BY item.n
