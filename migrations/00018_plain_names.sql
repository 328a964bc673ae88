-- Plain names for promise_settle, promise_create and promise_erase. All behave as before.
--
-- promise_settle returns the type settle_result, formerly promise_settlement. The variables of the functions have plain names. Some older names
-- stay, because the statements of the previous release use them or because Postgres cannot rename them in place:
--   promise_settlement  the former name of settle_result, kept as a domain over it. A call that began before this file may still cast to it.
--                       A later file drops the domain.
--   waited              an argument of promise_create: settlements_awaited in its body. CREATE OR REPLACE cannot rename an argument, and a
--                       dropped function would fail the calls that are about to run it.
--   what, it, doubtful  attributes of promise_created: what the call found, the promise, and whether the key is uncertain.
--   lost_hold           an attribute of promise_created: an early settlement was discarded.
--   settled             an attribute of settle_result: this call settled the promise.
--
-- The functions are replaced in place, so they keep their owner and grants. The functions of the previous release work on this schema.
--
-- Locks no table. ALTER TYPE locks the type alone: a connection that needs its columns for the first time waits until the file has committed, or until
-- a dry run has ended.

-- +goose Up
SET LOCAL lock_timeout = '1s';

ALTER TYPE promise_settlement RENAME TO settle_result;
CREATE DOMAIN promise_settlement AS settle_result;

-- Settles a promise. migrations/functions has the current text and the contract.
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION promise_settle(
    tenant_slug VARCHAR, given_id UUID, given_key VARCHAR, new_outcome VARCHAR, new_value BYTEA, new_error TEXT,
    new_kind VARCHAR, new_by VARCHAR, new_comment VARCHAR
) RETURNS settle_result LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
    caller_tenant UUID;
    target_id UUID := given_id;
    key_until TIMESTAMPTZ; -- the key's expires_at; NULL if the call has an id
    workflow_id UUID;
    number INT;
    moment TIMESTAMPTZ;
    already_settled BOOLEAN;
    settled_at TIMESTAMPTZ;
    state VARCHAR;
    deadline TIMESTAMPTZ;
    deadline_state VARCHAR; -- the state at the deadline; NULL: timed_out
    settled_by VARCHAR;
    stored_value BYTEA;
    stored_error TEXT;
    erased_since TIMESTAMPTZ;
BEGIN
    SELECT id INTO caller_tenant FROM tenant WHERE slug = tenant_slug AND suspended_at IS NULL;
    IF target_id IS NULL THEN
        SELECT promise_id, expires_at INTO target_id, key_until FROM idempotency_key WHERE tenant_id = caller_tenant AND key = given_key;
    END IF;

    UPDATE workflow_execution SET last_sequence_number = last_sequence_number + 1
    WHERE id = (
        SELECT p.workflow_execution_id
        FROM promise p
        WHERE p.id = target_id AND p.tenant_id = caller_tenant AND NOT p.resolved
          AND (p.timeout_at IS NULL OR p.timeout_at > NOW())
    )
    RETURNING id, last_sequence_number INTO workflow_id, number;
    IF FOUND THEN
        moment := CLOCK_TIMESTAMP();
        UPDATE promise
        SET resolved = TRUE, outcome = new_outcome, value = new_value, error = new_error,
            resolved_at = moment, resolved_by_sequence = number,
            settled_by_kind = new_kind, settled_by_id = new_by, comment = new_comment
        WHERE id = target_id AND NOT resolved AND (timeout_at IS NULL OR timeout_at > moment);
        IF NOT FOUND THEN
            PERFORM promise_race_lost(target_id);
        END IF;
        RETURN (target_id, workflow_id, new_outcome, FALSE, FALSE, TRUE, NULL)::settle_result;
    END IF;

    SELECT p.workflow_execution_id, p.resolved, p.resolved_at, p.outcome, p.timeout_at, p.timeout_outcome, p.settled_by_kind,
           p.value, p.error, p.erased_at
    INTO workflow_id, already_settled, settled_at, state, deadline, deadline_state, settled_by, stored_value, stored_error, erased_since
    FROM promise p
    WHERE p.id = target_id AND p.tenant_id = caller_tenant;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    IF NOT already_settled AND (deadline IS NULL OR deadline > NOW()) THEN -- an extension has committed since the update
        PERFORM promise_race_lost(target_id);
    END IF;
    moment := CLOCK_TIMESTAMP(); -- a variable: a volatile argument would keep promise_key_names from being inlined
    IF key_until IS NOT NULL AND NOT promise_key_names(key_until, already_settled, settled_at, deadline, moment) THEN
        RETURN NULL;
    END IF;
    IF already_settled THEN
        RETURN (
            target_id, workflow_id, state, state = 'timed_out' OR settled_by IS NOT DISTINCT FROM 'deadline',
            erased_since IS NULL AND state = new_outcome AND stored_value IS NOT DISTINCT FROM new_value
                AND stored_error IS NOT DISTINCT FROM new_error,
            FALSE, NULL
        )::settle_result;
    END IF;
    RETURN (target_id, workflow_id, COALESCE(deadline_state, 'timed_out'), TRUE, FALSE, FALSE, deadline)::settle_result;
END $$;
-- +goose StatementEnd

-- Creates a promise. migrations/functions has the current text and the contract.
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION promise_create(
    tenant_slug VARCHAR, workflow UUID, new_external_id VARCHAR, new_name VARCHAR, new_key VARCHAR, key_ttl INTERVAL,
    new_timeout INTERVAL, new_timeout_at TIMESTAMPTZ, new_metadata JSONB, deadline_outcome VARCHAR, deadline_value BYTEA,
    deadline_error TEXT, workflow_limit INT, waited BOOLEAN
) RETURNS promise_created LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
    settlements_awaited ALIAS FOR waited;
    caller_tenant UUID;
    number INT;
    moment TIMESTAMPTZ;
    found_rows RECORD;
    key_as_read idempotency_key;
    early_settlement idempotency_key; -- the key's row, if its early settlement settles the new promise
    early_expired BOOLEAN := FALSE;
    promise_row promise; -- the promise to return
    stored_external_id VARCHAR;
    full_quota VARCHAR;
BEGIN
    INSERT INTO workflow_execution AS w (id, tenant_id, last_sequence_number, external_id, promises_left)
    SELECT workflow, t.id, 1, new_external_id, COALESCE(t.max_workflow_promises, workflow_limit) - 1
    FROM tenant t
    WHERE t.slug = tenant_slug AND t.suspended_at IS NULL AND NOT t.pending_full
      AND NOT EXISTS (SELECT FROM workflow_execution o WHERE o.id = workflow AND o.tenant_id <> t.id)
      AND NOT EXISTS (SELECT FROM promise p WHERE p.workflow_execution_id = workflow AND p.name = new_name)
      AND NOT EXISTS (SELECT FROM idempotency_key k WHERE k.tenant_id = t.id AND k.key = new_key)
    ON CONFLICT (id) DO UPDATE
        SET last_sequence_number = w.last_sequence_number + 1, external_id = COALESCE(w.external_id, EXCLUDED.external_id),
            promises_left = w.promises_left - 1
        WHERE w.tenant_id = EXCLUDED.tenant_id AND w.promises_left > 0 AND w.promises_left <= EXCLUDED.promises_left + 1
    RETURNING w.tenant_id, w.last_sequence_number, w.external_id, CLOCK_TIMESTAMP()
    INTO caller_tenant, number, stored_external_id, moment;

    IF NOT FOUND THEN
        SELECT
            t.id AS tenant, t.pending_full, COALESCE(t.max_workflow_promises, workflow_limit) AS workflow_limit,
            p AS existing, q AS holder, k AS key, p.id AS existing_id,
            p.idempotency_key IS NOT DISTINCT FROM new_key OR COALESCE(k.promise_id = p.id, FALSE) AS same_key,
            p.metadata IS NOT DISTINCT FROM new_metadata AS same_metadata,
            (p.timeout_outcome, p.timeout_value, p.timeout_error)
                IS NOT DISTINCT FROM (deadline_outcome, deadline_value, deadline_error) AS same_on_timeout,
            q.id IS NOT NULL AND promise_key_live(k.expires_at, q.resolved, q.timeout_at, NOW()) AS key_live,
            COALESCE(NOT q.resolved AND k.expires_at <= NOW() AND q.timeout_at <= NOW() AND NOT settlements_awaited, FALSE)
                AS key_uncertain,
            k.held_at IS NOT NULL AS has_early,
            k.held_at IS NOT NULL AND COALESCE(k.held_until, k.expires_at) > NOW()
                AND (new_timeout_at IS NULL OR new_timeout_at > k.held_at) AS early_settles
        INTO found_rows
        FROM tenant t
        LEFT JOIN promise p ON p.workflow_execution_id = workflow AND p.name = new_name
        LEFT JOIN idempotency_key k ON k.tenant_id = t.id AND k.key = new_key
        LEFT JOIN promise q ON q.id = k.promise_id
        WHERE t.slug = tenant_slug AND t.suspended_at IS NULL
          AND NOT EXISTS (SELECT FROM workflow_execution w WHERE w.id = workflow AND w.tenant_id <> t.id);
        IF NOT FOUND THEN
            RETURN NULL;
        END IF;
        IF found_rows.existing_id IS NOT NULL THEN
            SELECT w.external_id INTO stored_external_id FROM workflow_execution w WHERE w.id = workflow;
            RETURN (
                'existing', found_rows.existing, stored_external_id, FALSE, found_rows.same_key, found_rows.same_metadata,
                found_rows.same_on_timeout, FALSE
            )::promise_created;
        END IF;
        IF found_rows.key_live OR found_rows.key_uncertain THEN
            promise_row := found_rows.holder;
            promise_row.value := NULL;
            promise_row.error := NULL;
            promise_row.metadata := NULL;
            promise_row.timeout_value := NULL;
            promise_row.timeout_error := NULL;
            RETURN ('key_holder', promise_row, NULL, found_rows.key_uncertain, TRUE, TRUE, TRUE, FALSE)::promise_created;
        END IF;
        key_as_read := found_rows.key;
        IF found_rows.early_settles THEN
            early_settlement := found_rows.key;
        END IF;
        early_expired := found_rows.has_early AND NOT found_rows.early_settles;

        IF found_rows.pending_full AND NOT found_rows.early_settles THEN
            full_quota := 'pending_full';
        ELSE
            INSERT INTO workflow_execution AS w (id, tenant_id, last_sequence_number, external_id, promises_left)
            VALUES (
                workflow, found_rows.tenant, CASE WHEN found_rows.early_settles THEN 2 ELSE 1 END, new_external_id,
                found_rows.workflow_limit - 1
            )
            ON CONFLICT (id) DO UPDATE
                SET last_sequence_number = w.last_sequence_number + EXCLUDED.last_sequence_number,
                    external_id = COALESCE(w.external_id, EXCLUDED.external_id),
                    promises_left = COALESCE(w.promises_left, EXCLUDED.promises_left + 1 - w.last_sequence_number) - 1
                WHERE w.tenant_id = EXCLUDED.tenant_id
                    AND COALESCE(w.promises_left, EXCLUDED.promises_left + 1 - w.last_sequence_number)
                        BETWEEN 1 AND EXCLUDED.promises_left + 1
            RETURNING w.tenant_id, w.last_sequence_number, w.external_id, CLOCK_TIMESTAMP()
            INTO caller_tenant, number, stored_external_id, moment;
            IF NOT FOUND THEN
                PERFORM FROM workflow_execution w WHERE w.id = workflow AND w.tenant_id = found_rows.tenant;
                IF NOT FOUND THEN
                    RETURN NULL;
                END IF;
                full_quota := 'workflow_full';
            END IF;
        END IF;
        IF full_quota IS NOT NULL THEN
            promise_row.id := '00000000-0000-0000-0000-000000000000';
            promise_row.workflow_execution_id := workflow;
            promise_row.name := new_name;
            promise_row.created_at := NOW();
            promise_row.created_by_sequence := 0;
            RETURN (full_quota, promise_row, NULL, FALSE, TRUE, TRUE, TRUE, FALSE)::promise_created;
        END IF;
    END IF;

    IF early_settlement.held_at IS NULL THEN
        INSERT INTO promise (
            workflow_execution_id, tenant_id, name, timeout_at, created_at, metadata, idempotency_key,
            timeout_outcome, timeout_value, timeout_error, created_by_sequence
        )
        VALUES (
            workflow, caller_tenant, new_name, COALESCE(new_timeout_at, moment + new_timeout), moment, new_metadata, new_key,
            deadline_outcome, deadline_value, deadline_error, number
        )
        RETURNING promise.* INTO promise_row;
    ELSE
        INSERT INTO promise (
            workflow_execution_id, tenant_id, name, timeout_at, created_at, metadata, idempotency_key,
            timeout_outcome, timeout_value, timeout_error, created_by_sequence, resolved_by_sequence,
            resolved, outcome, value, error, resolved_at, settled_by_kind, settled_by_id, comment
        )
        VALUES (
            workflow, caller_tenant, new_name, COALESCE(new_timeout_at, moment + new_timeout), moment, new_metadata, new_key,
            deadline_outcome, deadline_value, deadline_error, number - 1, number,
            TRUE, early_settlement.held_outcome, early_settlement.held_value, early_settlement.held_error, moment,
            early_settlement.held_by_kind, early_settlement.held_by_id, early_settlement.held_comment
        )
        RETURNING promise.* INTO promise_row;
    END IF;

    IF new_key IS NOT NULL THEN
        INSERT INTO idempotency_key AS k (tenant_id, key, promise_id, expires_at, check_at)
        VALUES (caller_tenant, new_key, promise_row.id, moment + key_ttl, moment + GREATEST(key_ttl, INTERVAL '168 hours'))
        ON CONFLICT (tenant_id, key) DO UPDATE
            SET promise_id = EXCLUDED.promise_id, expires_at = EXCLUDED.expires_at, check_at = EXCLUDED.check_at, held_at = NULL,
                held_until = NULL, held_outcome = NULL, held_value = NULL, held_error = NULL, held_by_kind = NULL,
                held_by_id = NULL, held_comment = NULL
            WHERE (k.expires_at, k.promise_id, k.held_at)
                IS NOT DISTINCT FROM (key_as_read.expires_at, key_as_read.promise_id, key_as_read.held_at);
        IF NOT FOUND THEN
            PERFORM promise_race_lost(promise_row.id);
        END IF;
    END IF;

    INSERT INTO workflow_event_row (workflow_execution_id, sequence_number, event_type, promise_id, created_at)
    VALUES (workflow, promise_row.created_by_sequence, 'PROMISE_CREATED', promise_row.id, moment);
    RETURN ('created', promise_row, stored_external_id, FALSE, TRUE, TRUE, TRUE, early_expired)::promise_created;
END $$;
-- +goose StatementEnd

-- Erases the contents of a settled promise. migrations/functions has the current text and the contract.
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION promise_erase(tenant_slug VARCHAR, given_id UUID, given_key VARCHAR)
RETURNS promise LANGUAGE plpgsql SECURITY DEFINER AS $$
#variable_conflict use_variable
DECLARE
    caller_tenant UUID;
    target_id UUID := given_id;
    promise_row promise;
    number INT;
    moment TIMESTAMPTZ := NOW();
BEGIN
    SELECT id INTO caller_tenant FROM tenant WHERE slug = tenant_slug AND suspended_at IS NULL;
    IF target_id IS NULL THEN
        SELECT k.promise_id INTO target_id
        FROM idempotency_key k
        JOIN promise q ON q.id = k.promise_id
        WHERE k.tenant_id = caller_tenant AND k.key = given_key
          AND promise_key_names(k.expires_at, q.resolved, q.resolved_at, q.timeout_at, moment);
    END IF;
    SELECT p.* INTO promise_row FROM promise p WHERE p.id = target_id AND p.tenant_id = caller_tenant;
    IF promise_row.id IS NULL THEN
        RETURN NULL;
    END IF;

    IF NOT promise_row.resolved AND promise_row.timeout_at <= moment THEN
        UPDATE workflow_execution SET last_sequence_number = last_sequence_number + 1 WHERE id = promise_row.workflow_execution_id
        RETURNING last_sequence_number INTO number;
        moment := CLOCK_TIMESTAMP();
        UPDATE promise
        SET resolved = TRUE, outcome = COALESCE(timeout_outcome, 'timed_out'), resolved_at = timeout_at, resolved_by_sequence = number,
            settled_by_kind = 'deadline'
        WHERE id = target_id AND NOT resolved AND timeout_at <= moment;
        IF NOT FOUND THEN
            PERFORM promise_race_lost(target_id);
        END IF;
        INSERT INTO workflow_event_row (workflow_execution_id, sequence_number, event_type, promise_id, created_at)
        VALUES (promise_row.workflow_execution_id, number, 'PROMISE_TIMEOUT', target_id, moment);
    END IF;

    UPDATE promise
    SET erased_at = CLOCK_TIMESTAMP(), value = NULL, error = NULL, metadata = NULL, comment = NULL,
        timeout_outcome = NULL, timeout_value = NULL, timeout_error = NULL
    WHERE id = target_id AND resolved AND erased_at IS NULL;
    SELECT p.* INTO promise_row FROM promise p WHERE p.id = target_id AND p.tenant_id = caller_tenant;
    RETURN CASE WHEN promise_row.id IS NOT NULL THEN promise_row END;
END $$;

-- It searches the schema of the tables, and pg_temp last: otherwise a temporary table of its caller would come first.
DO $$
BEGIN
    EXECUTE format('ALTER FUNCTION promise_erase(VARCHAR, UUID, VARCHAR) SET search_path = %I, pg_temp', current_schema());
END $$;
-- +goose StatementEnd
