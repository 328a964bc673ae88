-- Creates a promise and, with a key ($4), registers the key: both or neither. Registers the workflow execution too
-- where it is not known yet. $1 slug, $2 workflow execution, $3 name, $5 the key's time to live, $6 timeout counted
-- from the creation, $7 timeout as a moment, $8 metadata, $9 to $11 outcome, value and error that the deadline brings.
-- One row, which says by found what it is: the promise created, the one that existed, or the one that holds the key. No
-- row: there is no such tenant, or the workflow execution is another tenant's.
--
-- Where the key holds a settlement, the promise is born settled with it, if it came before the deadline. lost_hold says
-- that the key held one which came too late, or for which the promise did.
--
-- Locks: the workflow execution's row, then the promise's, then the key's. existing and holder read the snapshot;
-- a create that commits in between makes this one fail on promise_workflow_execution_id_name_key, or, where the key
-- was taken, by promise_race_lost: nothing is written, and the statement is to be run again.
-- A key whose time is over and whose promise is settled is free: it passes on, if it still is as it was seen. Where only
-- the clock says that its promise is settled, that is doubtful: an extension that was in time may be about to commit. The
-- holder is told, and the statement is to be run again with $12, when those under way have ended.
WITH caller AS MATERIALIZED (
    SELECT t.id AS tenant_id
    FROM tenant t
    WHERE t.slug = $1
      AND NOT EXISTS (SELECT FROM workflow_execution w WHERE w.id = $2::UUID AND w.tenant_id <> t.id)
),
existing AS MATERIALIZED (
    SELECT
        p.id, p.workflow_execution_id, p.name, p.outcome, p.value, p.error, p.timeout_at, p.created_at,
        p.resolved_at, p.created_by_sequence, p.resolved_by_sequence, p.metadata, p.idempotency_key,
        p.timeout_outcome, p.timeout_value, p.timeout_error, p.settled_by_kind, p.settled_by_id, p.comment,
        p.idempotency_key IS NOT DISTINCT FROM $4::VARCHAR OR EXISTS (
            SELECT FROM idempotency_key k
            WHERE k.tenant_id = caller.tenant_id AND k.key = $4::VARCHAR AND k.promise_id = p.id
        ) AS same_key,
        p.metadata IS NOT DISTINCT FROM $8::JSONB AS same_metadata,
        (p.timeout_outcome, p.timeout_value, p.timeout_error)
            IS NOT DISTINCT FROM ($9::VARCHAR, $10::BYTEA, $11::TEXT) AS same_on_timeout
    FROM caller
    JOIN promise p ON p.workflow_execution_id = $2::UUID AND p.name = $3::VARCHAR
),
holder AS MATERIALIZED (
    SELECT
        q.id, q.workflow_execution_id, q.name, q.outcome, q.timeout_at, q.created_at, q.resolved_at,
        q.created_by_sequence, q.resolved_by_sequence, k.expires_at, k.held_at,
        q.id IS NOT NULL
            AND (k.expires_at > NOW() OR NOT q.resolved AND (q.timeout_at IS NULL OR q.timeout_at > NOW())) AS live,
        COALESCE(NOT q.resolved AND k.expires_at <= NOW() AND q.timeout_at <= NOW() AND NOT $12::BOOLEAN, FALSE) AS doubtful,
        k.held_at IS NOT NULL AND k.expires_at > NOW() AND ($7::TIMESTAMPTZ IS NULL OR $7 > k.held_at) AS settles,
        k.held_outcome, k.held_value, k.held_error, k.held_by_kind, k.held_by_id, k.held_comment
    FROM caller
    JOIN idempotency_key k ON k.tenant_id = caller.tenant_id AND k.key = $4::VARCHAR
    LEFT JOIN promise q ON q.id = k.promise_id
),
numbered AS (
    INSERT INTO workflow_execution AS w (id, tenant_id, last_sequence_number)
    SELECT $2::UUID, caller.tenant_id, CASE WHEN EXISTS (SELECT FROM holder WHERE settles) THEN 2 ELSE 1 END
    FROM caller
    WHERE NOT EXISTS (SELECT FROM existing) AND NOT EXISTS (SELECT FROM holder WHERE live OR doubtful)
    ON CONFLICT (id) DO UPDATE SET last_sequence_number = w.last_sequence_number + EXCLUDED.last_sequence_number
        WHERE w.tenant_id = EXCLUDED.tenant_id
    RETURNING w.id, w.tenant_id, w.last_sequence_number, CLOCK_TIMESTAMP() AS at
),
created AS (
    INSERT INTO promise (
        workflow_execution_id, tenant_id, name, timeout_at, created_at, metadata, idempotency_key,
        timeout_outcome, timeout_value, timeout_error,
        created_by_sequence, resolved_by_sequence, resolved, outcome, value, error, resolved_at,
        settled_by_kind, settled_by_id, comment
    )
    SELECT
        n.id, n.tenant_id, $3::VARCHAR, COALESCE($7::TIMESTAMPTZ, n.at + $6::INTERVAL), n.at, $8::JSONB, $4::VARCHAR,
        $9::VARCHAR, $10::BYTEA, $11::TEXT,
        CASE WHEN h.settles THEN n.last_sequence_number - 1 ELSE n.last_sequence_number END,
        CASE WHEN h.settles THEN n.last_sequence_number END,
        h.settles IS TRUE, h.held_outcome, h.held_value, h.held_error, CASE WHEN h.settles THEN n.at END,
        h.held_by_kind, h.held_by_id, h.held_comment
    FROM numbered n
    LEFT JOIN holder h ON h.settles
    RETURNING id, workflow_execution_id, name, outcome, value, error, timeout_at, created_at, resolved_at,
              created_by_sequence, resolved_by_sequence, metadata, idempotency_key,
              timeout_outcome, timeout_value, timeout_error, settled_by_kind, settled_by_id, comment
),
registered AS (
    INSERT INTO idempotency_key AS k (tenant_id, key, promise_id, expires_at)
    SELECT numbered.tenant_id, $4::VARCHAR, created.id, created.created_at + $5::INTERVAL
    FROM created, numbered
    WHERE $4::VARCHAR IS NOT NULL
    ON CONFLICT (tenant_id, key) DO UPDATE
        SET promise_id = EXCLUDED.promise_id, expires_at = EXCLUDED.expires_at, held_at = NULL, held_outcome = NULL,
            held_value = NULL, held_error = NULL, held_by_kind = NULL, held_by_id = NULL, held_comment = NULL
        WHERE EXISTS (
            SELECT FROM holder h
            WHERE (h.expires_at, h.id, h.held_at) IS NOT DISTINCT FROM (k.expires_at, k.promise_id, k.held_at)
        )
    RETURNING k.promise_id
),
logged AS (
    INSERT INTO workflow_event_row (workflow_execution_id, sequence_number, event_type, promise_id, created_at)
    SELECT created.workflow_execution_id, created.created_by_sequence, 'PROMISE_CREATED',
           CASE WHEN $4::VARCHAR IS NULL THEN created.id ELSE COALESCE(registered.promise_id, promise_race_lost(created.id)) END,
           created.created_at
    FROM created
    LEFT JOIN registered ON TRUE
)
SELECT
    id, workflow_execution_id, name, outcome, value, error, timeout_at, created_at, resolved_at,
    created_by_sequence, resolved_by_sequence, metadata, idempotency_key,
    timeout_outcome, timeout_value, timeout_error, settled_by_kind, settled_by_id, comment, CLOCK_TIMESTAMP() AS read_at,
    'created' AS found, FALSE AS doubtful, TRUE AS same_key, TRUE AS same_metadata, TRUE AS same_on_timeout,
    EXISTS (SELECT FROM holder WHERE held_at IS NOT NULL AND NOT settles) AS lost_hold
FROM created
UNION ALL
SELECT
    id, workflow_execution_id, name, outcome, value, error, timeout_at, created_at, resolved_at,
    created_by_sequence, resolved_by_sequence, metadata, idempotency_key,
    timeout_outcome, timeout_value, timeout_error, settled_by_kind, settled_by_id, comment, CLOCK_TIMESTAMP(),
    'existing', FALSE, same_key, same_metadata, same_on_timeout, FALSE
FROM existing
UNION ALL
SELECT
    id, workflow_execution_id, name, outcome, NULL, NULL, timeout_at, created_at, resolved_at,
    created_by_sequence, resolved_by_sequence, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NOW(),
    'key_holder', doubtful, FALSE, FALSE, FALSE, FALSE
FROM holder
WHERE (live OR doubtful) AND NOT EXISTS (SELECT FROM existing)
