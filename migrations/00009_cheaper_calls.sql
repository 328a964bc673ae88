-- promise_settle and promise_create with fewer instructions. promise_settle reads the tenant and the promise first, and then updates by primary
-- key; before, the first UPDATE had joins, and a second statement read again if it found nothing. Both return named types, because Postgres looks up
-- the columns of OUT parameters again for each call.
--
-- The functions of the previous release work on this schema. Their running calls end normally: the database functions that those calls
-- have entered stay under the names promise_settle_before and promise_create_before, until a later file drops them.
--
-- Locks workflow_execution against VACUUM and schema changes, or gives up after ten seconds; readers and writers do not wait. An autovacuum
-- is cancelled after deadlock_timeout, a second, but not one against wraparound.

-- +goose Up
SET LOCAL lock_timeout = '10s';

-- Half of each page that is filled from now on stays free for the next versions of its rows. Those need no index entry, and each change of a
-- number prunes half as many rows.
ALTER TABLE workflow_execution SET (fillfactor = 50);

ALTER FUNCTION promise_settle(VARCHAR, UUID, VARCHAR, VARCHAR, BYTEA, TEXT, VARCHAR, VARCHAR, VARCHAR)
    RENAME TO promise_settle_before;
ALTER FUNCTION promise_create(
    VARCHAR, UUID, VARCHAR, VARCHAR, INTERVAL, INTERVAL, TIMESTAMPTZ, JSONB, VARCHAR, BYTEA, TEXT, BOOLEAN
) RENAME TO promise_create_before;

CREATE TYPE promise_settlement AS (
    promise_id UUID, workflow_execution_id UUID, state VARCHAR, by_deadline BOOLEAN, same BOOLEAN, settled BOOLEAN,
    overdue_since TIMESTAMPTZ
);

-- Settles a promise. migrations/functions has the current text and the contract. This version reads the promise first and then updates, and an
-- expired key names its promise only while that is pending. It returns NULL if the tenant has no such promise.
-- +goose StatementBegin
CREATE FUNCTION promise_settle(
    tenant_slug VARCHAR, given_id UUID, given_key VARCHAR, new_outcome VARCHAR, new_value BYTEA, new_error TEXT,
    new_kind VARCHAR, new_by VARCHAR, new_comment VARCHAR
) RETURNS promise_settlement LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
    caller UUID;
    target UUID;
    workflow UUID;
    settled BOOLEAN;
    state VARCHAR;
    due TIMESTAMPTZ;
    due_state VARCHAR;
    kind VARCHAR;
    old_value BYTEA;
    old_error TEXT;
    number INT;
    moment TIMESTAMPTZ;
BEGIN
    SELECT id INTO caller FROM tenant WHERE slug = tenant_slug;
    IF given_id IS NULL THEN
        SELECT p.id, p.workflow_execution_id, p.resolved, p.outcome, p.timeout_at, p.timeout_outcome, p.settled_by_kind, p.value,
               p.error
        INTO target, workflow, settled, state, due, due_state, kind, old_value, old_error
        FROM idempotency_key k
        JOIN promise p ON p.id = k.promise_id AND p.tenant_id = caller
        WHERE k.tenant_id = caller AND k.key = given_key
          AND (k.expires_at > NOW() OR NOT p.resolved AND (p.timeout_at IS NULL OR p.timeout_at > NOW()));
    ELSE
        SELECT p.id, p.workflow_execution_id, p.resolved, p.outcome, p.timeout_at, p.timeout_outcome, p.settled_by_kind, p.value,
               p.error
        INTO target, workflow, settled, state, due, due_state, kind, old_value, old_error
        FROM promise p
        WHERE p.id = given_id AND p.tenant_id = caller;
    END IF;
    IF target IS NULL THEN
        RETURN NULL;
    END IF;
    IF settled THEN
        RETURN (
            target, workflow, state, state = 'timed_out' OR kind IS NOT DISTINCT FROM 'deadline',
            state = new_outcome AND old_value IS NOT DISTINCT FROM new_value AND old_error IS NOT DISTINCT FROM new_error,
            FALSE, NULL
        )::promise_settlement;
    END IF;
    IF due <= NOW() THEN
        RETURN (target, workflow, COALESCE(due_state, 'timed_out'), TRUE, FALSE, FALSE, due)::promise_settlement;
    END IF;

    UPDATE workflow_execution SET last_sequence_number = last_sequence_number + 1 WHERE id = workflow
    RETURNING last_sequence_number INTO number;
    moment := CLOCK_TIMESTAMP();
    UPDATE promise
    SET resolved = TRUE, outcome = new_outcome, value = new_value, error = new_error,
        resolved_at = moment, resolved_by_sequence = number,
        settled_by_kind = new_kind, settled_by_id = new_by, comment = new_comment
    WHERE id = target AND NOT resolved AND number IS NOT NULL AND (timeout_at IS NULL OR timeout_at > moment);
    IF NOT FOUND THEN
        PERFORM promise_race_lost(target);
    END IF;
    RETURN (target, workflow, new_outcome, FALSE, FALSE, TRUE, NULL)::promise_settlement;
END $$;
-- +goose StatementEnd

CREATE TYPE promise_creation AS (
    what VARCHAR, it promise, doubtful BOOLEAN, same_key BOOLEAN, same_metadata BOOLEAN, same_on_timeout BOOLEAN,
    lost_hold BOOLEAN
);

-- Creates a promise. migrations/functions has the current text and the contract. This version differs from that of 00008 only in the type that it
-- returns.
-- +goose StatementBegin
CREATE FUNCTION promise_create(
    tenant_slug VARCHAR, workflow UUID, new_name VARCHAR, new_key VARCHAR, key_ttl INTERVAL, new_timeout INTERVAL,
    new_timeout_at TIMESTAMPTZ, new_metadata JSONB, deadline_outcome VARCHAR, deadline_value BYTEA, deadline_error TEXT,
    waited BOOLEAN
) RETURNS promise_creation LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
    caller UUID;
    number INT;
    moment TIMESTAMPTZ;
    seen RECORD;
    key_seen idempotency_key;
    hold idempotency_key; -- the row whose early settlement settles the new promise
    lost_hold BOOLEAN := FALSE;
    it promise;
BEGIN
    INSERT INTO workflow_execution AS w (id, tenant_id, last_sequence_number)
    SELECT workflow, t.id, 1
    FROM tenant t
    WHERE t.slug = tenant_slug
      AND NOT EXISTS (SELECT FROM workflow_execution o WHERE o.id = workflow AND o.tenant_id <> t.id)
      AND NOT EXISTS (SELECT FROM promise p WHERE p.workflow_execution_id = workflow AND p.name = new_name)
      AND NOT EXISTS (SELECT FROM idempotency_key k WHERE k.tenant_id = t.id AND k.key = new_key)
    ON CONFLICT (id) DO UPDATE SET last_sequence_number = w.last_sequence_number + 1 WHERE w.tenant_id = EXCLUDED.tenant_id
    RETURNING w.tenant_id, w.last_sequence_number, CLOCK_TIMESTAMP() INTO caller, number, moment;

    IF NOT FOUND THEN
        SELECT
            t.id AS caller, p AS existing, q AS holder, k AS key, p.id AS existing_id,
            p.idempotency_key IS NOT DISTINCT FROM new_key OR COALESCE(k.promise_id = p.id, FALSE) AS same_key,
            p.metadata IS NOT DISTINCT FROM new_metadata AS same_metadata,
            (p.timeout_outcome, p.timeout_value, p.timeout_error)
                IS NOT DISTINCT FROM (deadline_outcome, deadline_value, deadline_error) AS same_on_timeout,
            q.id IS NOT NULL
                AND (k.expires_at > NOW() OR NOT q.resolved AND (q.timeout_at IS NULL OR q.timeout_at > NOW())) AS live,
            COALESCE(NOT q.resolved AND k.expires_at <= NOW() AND q.timeout_at <= NOW() AND NOT waited, FALSE) AS doubtful,
            k.held_at IS NOT NULL AS held,
            k.held_at IS NOT NULL AND k.expires_at > NOW() AND (new_timeout_at IS NULL OR new_timeout_at > k.held_at) AS settles
        INTO seen
        FROM tenant t
        LEFT JOIN promise p ON p.workflow_execution_id = workflow AND p.name = new_name
        LEFT JOIN idempotency_key k ON k.tenant_id = t.id AND k.key = new_key
        LEFT JOIN promise q ON q.id = k.promise_id
        WHERE t.slug = tenant_slug
          AND NOT EXISTS (SELECT FROM workflow_execution w WHERE w.id = workflow AND w.tenant_id <> t.id);
        IF NOT FOUND THEN
            RETURN NULL;
        END IF;
        IF seen.existing_id IS NOT NULL THEN
            RETURN (
                'existing', seen.existing, FALSE, seen.same_key, seen.same_metadata, seen.same_on_timeout, FALSE
            )::promise_creation;
        END IF;
        IF seen.live OR seen.doubtful THEN
            it := seen.holder;
            it.value := NULL;
            it.error := NULL;
            it.metadata := NULL;
            it.timeout_value := NULL;
            it.timeout_error := NULL;
            RETURN ('key_holder', it, seen.doubtful, TRUE, TRUE, TRUE, FALSE)::promise_creation;
        END IF;
        key_seen := seen.key;
        IF seen.settles THEN
            hold := seen.key;
        END IF;
        lost_hold := seen.held AND NOT seen.settles;

        INSERT INTO workflow_execution AS w (id, tenant_id, last_sequence_number)
        VALUES (workflow, seen.caller, CASE WHEN seen.settles THEN 2 ELSE 1 END)
        ON CONFLICT (id) DO UPDATE SET last_sequence_number = w.last_sequence_number + EXCLUDED.last_sequence_number
            WHERE w.tenant_id = EXCLUDED.tenant_id
        RETURNING w.tenant_id, w.last_sequence_number, CLOCK_TIMESTAMP() INTO caller, number, moment;
        IF NOT FOUND THEN
            RETURN NULL;
        END IF;
    END IF;

    IF hold.held_at IS NULL THEN
        INSERT INTO promise (
            workflow_execution_id, tenant_id, name, timeout_at, created_at, metadata, idempotency_key,
            timeout_outcome, timeout_value, timeout_error, created_by_sequence
        )
        VALUES (
            workflow, caller, new_name, COALESCE(new_timeout_at, moment + new_timeout), moment, new_metadata, new_key,
            deadline_outcome, deadline_value, deadline_error, number
        )
        RETURNING promise.* INTO it;
    ELSE
        INSERT INTO promise (
            workflow_execution_id, tenant_id, name, timeout_at, created_at, metadata, idempotency_key,
            timeout_outcome, timeout_value, timeout_error, created_by_sequence, resolved_by_sequence,
            resolved, outcome, value, error, resolved_at, settled_by_kind, settled_by_id, comment
        )
        VALUES (
            workflow, caller, new_name, COALESCE(new_timeout_at, moment + new_timeout), moment, new_metadata, new_key,
            deadline_outcome, deadline_value, deadline_error, number - 1, number,
            TRUE, hold.held_outcome, hold.held_value, hold.held_error, moment, hold.held_by_kind, hold.held_by_id, hold.held_comment
        )
        RETURNING promise.* INTO it;
    END IF;

    IF new_key IS NOT NULL THEN
        INSERT INTO idempotency_key AS k (tenant_id, key, promise_id, expires_at)
        VALUES (caller, new_key, it.id, moment + key_ttl)
        ON CONFLICT (tenant_id, key) DO UPDATE
            SET promise_id = EXCLUDED.promise_id, expires_at = EXCLUDED.expires_at, held_at = NULL, held_outcome = NULL,
                held_value = NULL, held_error = NULL, held_by_kind = NULL, held_by_id = NULL, held_comment = NULL
            WHERE (k.expires_at, k.promise_id, k.held_at)
                IS NOT DISTINCT FROM (key_seen.expires_at, key_seen.promise_id, key_seen.held_at);
        IF NOT FOUND THEN
            PERFORM promise_race_lost(it.id);
        END IF;
    END IF;

    INSERT INTO workflow_event_row (workflow_execution_id, sequence_number, event_type, promise_id, created_at)
    VALUES (workflow, it.created_by_sequence, 'PROMISE_CREATED', it.id, moment);
    RETURN ('created', it, FALSE, TRUE, TRUE, TRUE, lost_hold)::promise_creation;
END $$;
-- +goose StatementEnd
