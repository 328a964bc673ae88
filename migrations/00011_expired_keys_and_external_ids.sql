-- Expired idempotency keys keep their promise for a time, and workflow executions can have an external id.
--
-- A key that has expired still names its settled promise for 168 hours after the settlement, until a create takes it over. Beside that
-- promise a key may have one early settlement for the next promise, with its own expiry (held_until). check_at is the time at which the sweep
-- next reads the key, so that it does not read the same keys again and again.
--
-- workflow_execution.external_id is the text from which the execution's UUID was derived.
--
-- The functions of the previous release work on this schema. promise_settle is replaced in place, and the promise_create that they call
-- now calls the new one. Two things differ while one of those functions still runs. The previous release's sweep, for 65 seconds at most,
-- deletes expired keys as before. An early settlement that the previous release stores takes an expired key's promise away.
--
-- Locks idempotency_key and workflow_execution against all others from here to the end, or gives up after a second for each. The
-- index on check_at is built under the lock.

-- +goose Up
SET LOCAL lock_timeout = '1s';
SET LOCAL statement_timeout = 0;
SET LOCAL maintenance_work_mem = '256MB';
LOCK TABLE workflow_execution, idempotency_key IN ACCESS EXCLUSIVE MODE;

-- No CHECK: each update of an execution's number would evaluate it.
ALTER TABLE workflow_execution ADD COLUMN external_id VARCHAR(255);

-- If the previous release stores an early settlement, the row has no held_until: its expires_at is the expiry. Its check_at is the default, and the
-- first sweep corrects it.
ALTER TABLE idempotency_key
    ADD COLUMN held_until TIMESTAMPTZ,
    ADD COLUMN check_at   TIMESTAMPTZ NOT NULL DEFAULT NOW(),
    DROP CONSTRAINT idempotency_key_held,
    ADD CONSTRAINT idempotency_key_held CHECK (
        CASE held_outcome
            WHEN 'resolved' THEN held_at IS NOT NULL AND held_value IS NOT NULL AND held_error IS NULL
            WHEN 'rejected' THEN held_at IS NOT NULL AND held_value IS NULL AND held_error IS NOT NULL
            ELSE held_outcome IS NULL AND promise_id IS NOT NULL AND held_at IS NULL AND held_until IS NULL
        END
    );
CREATE INDEX idx_idempotency_key_check ON idempotency_key (check_at);
DROP INDEX idx_idempotency_key_expires;

-- Reports whether a key belongs to its promise at a moment, so that no create may take it over: until the key expires, and for as long
-- as the promise is pending.
CREATE FUNCTION promise_key_live(expires_at TIMESTAMPTZ, resolved BOOLEAN, timeout_at TIMESTAMPTZ, moment TIMESTAMPTZ)
RETURNS BOOLEAN LANGUAGE sql STABLE AS
    $$ SELECT expires_at > moment OR NOT resolved AND (timeout_at IS NULL OR timeout_at > moment) $$;

-- Reports whether a key names its promise at a moment: while it is live, and for 168 hours after the settlement. resolved_at is NULL
-- for some promises that were adopted from a legacy database: they were settled long ago.
CREATE FUNCTION promise_key_names(
    expires_at TIMESTAMPTZ, resolved BOOLEAN, resolved_at TIMESTAMPTZ, timeout_at TIMESTAMPTZ, moment TIMESTAMPTZ
) RETURNS BOOLEAN LANGUAGE sql STABLE AS $$
    SELECT expires_at > moment
        OR CASE WHEN resolved THEN COALESCE(resolved_at, '-infinity') ELSE COALESCE(timeout_at, 'infinity') END > moment - INTERVAL '168 hours'
$$;

-- Settles a promise. migrations/functions has the current text and the contract. From this version on an expired key names its settled promise for
-- 168 hours.
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION promise_settle(
    tenant_slug VARCHAR, given_id UUID, given_key VARCHAR, new_outcome VARCHAR, new_value BYTEA, new_error TEXT,
    new_kind VARCHAR, new_by VARCHAR, new_comment VARCHAR
) RETURNS promise_settlement LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
    caller UUID;
    target UUID := given_id;
    key_until TIMESTAMPTZ;
    workflow UUID;
    number INT;
    moment TIMESTAMPTZ;
    settled BOOLEAN;
    settled_at TIMESTAMPTZ;
    state VARCHAR;
    due TIMESTAMPTZ;
    due_state VARCHAR;
    kind VARCHAR;
    old_value BYTEA;
    old_error TEXT;
BEGIN
    SELECT id INTO caller FROM tenant WHERE slug = tenant_slug;
    IF target IS NULL THEN
        SELECT promise_id, expires_at INTO target, key_until FROM idempotency_key WHERE tenant_id = caller AND key = given_key;
    END IF;

    UPDATE workflow_execution SET last_sequence_number = last_sequence_number + 1
    WHERE id = (
        SELECT p.workflow_execution_id
        FROM promise p
        WHERE p.id = target AND p.tenant_id = caller AND NOT p.resolved AND (p.timeout_at IS NULL OR p.timeout_at > NOW())
    )
    RETURNING id, last_sequence_number INTO workflow, number;
    IF FOUND THEN
        moment := CLOCK_TIMESTAMP();
        UPDATE promise
        SET resolved = TRUE, outcome = new_outcome, value = new_value, error = new_error,
            resolved_at = moment, resolved_by_sequence = number,
            settled_by_kind = new_kind, settled_by_id = new_by, comment = new_comment
        WHERE id = target AND NOT resolved AND (timeout_at IS NULL OR timeout_at > moment);
        IF NOT FOUND THEN
            PERFORM promise_race_lost(target);
        END IF;
        RETURN (target, workflow, new_outcome, FALSE, FALSE, TRUE, NULL)::promise_settlement;
    END IF;

    SELECT p.workflow_execution_id, p.resolved, p.resolved_at, p.outcome, p.timeout_at, p.timeout_outcome, p.settled_by_kind,
           p.value, p.error
    INTO workflow, settled, settled_at, state, due, due_state, kind, old_value, old_error
    FROM promise p
    WHERE p.id = target AND p.tenant_id = caller;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    IF NOT settled AND (due IS NULL OR due > NOW()) THEN -- an extension has committed since the update
        PERFORM promise_race_lost(target);
    END IF;
    moment := CLOCK_TIMESTAMP(); -- a variable: a volatile argument would keep promise_key_names from being inlined
    IF key_until IS NOT NULL AND NOT promise_key_names(key_until, settled, settled_at, due, moment) THEN
        RETURN NULL;
    END IF;
    IF settled THEN
        RETURN (
            target, workflow, state, state = 'timed_out' OR kind IS NOT DISTINCT FROM 'deadline',
            state = new_outcome AND old_value IS NOT DISTINCT FROM new_value AND old_error IS NOT DISTINCT FROM new_error,
            FALSE, NULL
        )::promise_settlement;
    END IF;
    RETURN (target, workflow, COALESCE(due_state, 'timed_out'), TRUE, FALSE, FALSE, due)::promise_settlement;
END $$;
-- +goose StatementEnd

CREATE TYPE promise_created AS (
    what VARCHAR, it promise, external_id VARCHAR, doubtful BOOLEAN, same_key BOOLEAN, same_metadata BOOLEAN,
    same_on_timeout BOOLEAN, lost_hold BOOLEAN
);

-- Creates a promise. migrations/functions has the current text and the contract. This version differs from that of 00009 by the external id and by
-- keys that have both a promise and an early settlement. It has no quotas.
-- +goose StatementBegin
CREATE FUNCTION promise_create(
    tenant_slug VARCHAR, workflow UUID, new_external_id VARCHAR, new_name VARCHAR, new_key VARCHAR, key_ttl INTERVAL,
    new_timeout INTERVAL, new_timeout_at TIMESTAMPTZ, new_metadata JSONB, deadline_outcome VARCHAR, deadline_value BYTEA,
    deadline_error TEXT, waited BOOLEAN
) RETURNS promise_created LANGUAGE plpgsql AS $$
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
    known_as VARCHAR;
BEGIN
    INSERT INTO workflow_execution AS w (id, tenant_id, last_sequence_number, external_id)
    SELECT workflow, t.id, 1, new_external_id
    FROM tenant t
    WHERE t.slug = tenant_slug
      AND NOT EXISTS (SELECT FROM workflow_execution o WHERE o.id = workflow AND o.tenant_id <> t.id)
      AND NOT EXISTS (SELECT FROM promise p WHERE p.workflow_execution_id = workflow AND p.name = new_name)
      AND NOT EXISTS (SELECT FROM idempotency_key k WHERE k.tenant_id = t.id AND k.key = new_key)
    ON CONFLICT (id) DO UPDATE
        SET last_sequence_number = w.last_sequence_number + 1, external_id = COALESCE(w.external_id, EXCLUDED.external_id)
        WHERE w.tenant_id = EXCLUDED.tenant_id
    RETURNING w.tenant_id, w.last_sequence_number, w.external_id, CLOCK_TIMESTAMP() INTO caller, number, known_as, moment;

    IF NOT FOUND THEN
        SELECT
            t.id AS caller, p AS existing, q AS holder, k AS key, p.id AS existing_id,
            p.idempotency_key IS NOT DISTINCT FROM new_key OR COALESCE(k.promise_id = p.id, FALSE) AS same_key,
            p.metadata IS NOT DISTINCT FROM new_metadata AS same_metadata,
            (p.timeout_outcome, p.timeout_value, p.timeout_error)
                IS NOT DISTINCT FROM (deadline_outcome, deadline_value, deadline_error) AS same_on_timeout,
            q.id IS NOT NULL AND promise_key_live(k.expires_at, q.resolved, q.timeout_at, NOW()) AS live,
            COALESCE(NOT q.resolved AND k.expires_at <= NOW() AND q.timeout_at <= NOW() AND NOT waited, FALSE) AS doubtful,
            k.held_at IS NOT NULL AS held,
            k.held_at IS NOT NULL AND COALESCE(k.held_until, k.expires_at) > NOW()
                AND (new_timeout_at IS NULL OR new_timeout_at > k.held_at) AS settles
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
            SELECT w.external_id INTO known_as FROM workflow_execution w WHERE w.id = workflow;
            RETURN (
                'existing', seen.existing, known_as, FALSE, seen.same_key, seen.same_metadata, seen.same_on_timeout, FALSE
            )::promise_created;
        END IF;
        IF seen.live OR seen.doubtful THEN
            it := seen.holder;
            it.value := NULL;
            it.error := NULL;
            it.metadata := NULL;
            it.timeout_value := NULL;
            it.timeout_error := NULL;
            RETURN ('key_holder', it, NULL, seen.doubtful, TRUE, TRUE, TRUE, FALSE)::promise_created;
        END IF;
        key_seen := seen.key;
        IF seen.settles THEN
            hold := seen.key;
        END IF;
        lost_hold := seen.held AND NOT seen.settles;

        INSERT INTO workflow_execution AS w (id, tenant_id, last_sequence_number, external_id)
        VALUES (workflow, seen.caller, CASE WHEN seen.settles THEN 2 ELSE 1 END, new_external_id)
        ON CONFLICT (id) DO UPDATE
            SET last_sequence_number = w.last_sequence_number + EXCLUDED.last_sequence_number,
                external_id = COALESCE(w.external_id, EXCLUDED.external_id)
            WHERE w.tenant_id = EXCLUDED.tenant_id
        RETURNING w.tenant_id, w.last_sequence_number, w.external_id, CLOCK_TIMESTAMP() INTO caller, number, known_as, moment;
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
        INSERT INTO idempotency_key AS k (tenant_id, key, promise_id, expires_at, check_at)
        VALUES (caller, new_key, it.id, moment + key_ttl, moment + GREATEST(key_ttl, INTERVAL '168 hours'))
        ON CONFLICT (tenant_id, key) DO UPDATE
            SET promise_id = EXCLUDED.promise_id, expires_at = EXCLUDED.expires_at, check_at = EXCLUDED.check_at, held_at = NULL,
                held_until = NULL, held_outcome = NULL, held_value = NULL, held_error = NULL, held_by_kind = NULL,
                held_by_id = NULL, held_comment = NULL
            WHERE (k.expires_at, k.promise_id, k.held_at)
                IS NOT DISTINCT FROM (key_seen.expires_at, key_seen.promise_id, key_seen.held_at);
        IF NOT FOUND THEN
            PERFORM promise_race_lost(it.id);
        END IF;
    END IF;

    INSERT INTO workflow_event_row (workflow_execution_id, sequence_number, event_type, promise_id, created_at)
    VALUES (workflow, it.created_by_sequence, 'PROMISE_CREATED', it.id, moment);
    RETURN ('created', it, known_as, FALSE, TRUE, TRUE, TRUE, lost_hold)::promise_created;
END $$;
-- +goose StatementEnd

-- The function that the previous release calls. A later file drops it.
CREATE OR REPLACE FUNCTION promise_create(
    tenant_slug VARCHAR, workflow UUID, new_name VARCHAR, new_key VARCHAR, key_ttl INTERVAL, new_timeout INTERVAL,
    new_timeout_at TIMESTAMPTZ, new_metadata JSONB, deadline_outcome VARCHAR, deadline_value BYTEA, deadline_error TEXT,
    waited BOOLEAN
) RETURNS promise_creation LANGUAGE sql AS $$
    SELECT (c.what, c.it, c.doubtful, c.same_key, c.same_metadata, c.same_on_timeout, c.lost_hold)::promise_creation
    FROM promise_create(
        tenant_slug, workflow, NULL, new_name, new_key, key_ttl, new_timeout, new_timeout_at, new_metadata, deadline_outcome,
        deadline_value, deadline_error, waited
    ) AS c
$$;
