-- Each rule about deadlines and keys is one function, and former names are dropped.
--
-- promise_deadline_outcome, promise_by_deadline and promise_key_uncertain state their rules once, and promise_settle, promise_create and
-- promise_erase use them. promise_settle also waits by itself if a deadline has passed and nothing has recorded it. overdue_since of its result
-- is NULL from now on: the functions of the previous release need not wait any more. promise_await_settlements releases its locks before it
-- returns. PUBLIC may no longer execute promise_erase, as the grants of a deployment have it already.
--
-- Dropped are promise_settle_before and promise_create_before, the promise_create of the releases before 00014, the type promise_creation, and
-- the domain promise_settlement. The previous release uses none of them; older releases do, and do not work on this schema. The functions of
-- the previous release work on it, with their connections and prepared statements.
--
-- Locks no table.

-- +goose Up
SET LOCAL lock_timeout = '1s';

DROP FUNCTION IF EXISTS
    promise_settle_before(VARCHAR, UUID, VARCHAR, VARCHAR, BYTEA, TEXT, VARCHAR, VARCHAR, VARCHAR),
    promise_create_before(VARCHAR, UUID, VARCHAR, VARCHAR, INTERVAL, INTERVAL, TIMESTAMPTZ, JSONB, VARCHAR, BYTEA, TEXT, BOOLEAN),
    promise_create(VARCHAR, UUID, VARCHAR, VARCHAR, INTERVAL, INTERVAL, TIMESTAMPTZ, JSONB, VARCHAR, BYTEA, TEXT, BOOLEAN),
    promise_create(VARCHAR, UUID, VARCHAR, VARCHAR, VARCHAR, INTERVAL, INTERVAL, TIMESTAMPTZ, JSONB, VARCHAR, BYTEA, TEXT, BOOLEAN);
DROP TYPE IF EXISTS promise_creation;
DROP DOMAIN IF EXISTS promise_settlement;

-- From here on: copies of files in migrations/functions. Edit those, and repeat `go run ./migrations/snapshot NAME`.

-- +goose StatementBegin
-- Waits until no settlement or extension that may still be in time for a passed deadline is running. Rows that the caller reads afterwards and
-- that are past that deadline do not change any more.
--
-- Arguments: promise_ids[n] is the promise that has the deadline, or NULL, and workflow_ids[n] its workflow execution.
--
-- A settlement and an extension lock the workflow execution's row, then judge the deadline, and keep the lock until they commit. So the
-- function locks that row, too. It does not wait for the sweep, which locks the row first and then, FOR UPDATE, each promise whose deadline it
-- records. If a promise is locked so, no settlement of its workflow is running, and a later one is judged by a later clock. Settlements and
-- extensions lock a promise FOR NO KEY UPDATE, which does not conflict with KEY SHARE.
--
-- Locks: the promises' rows FOR KEY SHARE, skipping locked ones. The end of a block releases them, before the function waits for anything. Then
-- the workflow executions' rows FOR SHARE, in the order of their ids. The function has no lock when it returns: callers that wait for the same
-- workflow execution would otherwise keep its settlements out until each of them has committed.
--
-- Indexes: promise_pkey, workflow_execution_pkey.
CREATE OR REPLACE FUNCTION promise_await_settlements(promise_ids UUID[], workflow_ids UUID[]) RETURNS VOID
LANGUAGE plpgsql SECURITY DEFINER AS $$
#variable_conflict use_variable
DECLARE
    not_swept UUID[];
    awaited UUID[];
BEGIN
    BEGIN
        not_swept := ARRAY(SELECT p.id FROM promise p WHERE p.id = ANY (promise_ids) FOR KEY SHARE SKIP LOCKED);
        RAISE EXCEPTION USING ERRCODE = 'PR002';
    EXCEPTION WHEN SQLSTATE 'PR002' THEN
        NULL; -- the rollback of the block releases the locks
    END;
    awaited := ARRAY(
        SELECT deadline.workflow_id
        FROM UNNEST(promise_ids, workflow_ids) AS deadline (promise_id, workflow_id)
        WHERE deadline.promise_id IS NULL OR deadline.promise_id = ANY (not_swept)
    );
    BEGIN
        PERFORM FROM workflow_execution w WHERE w.id = ANY (awaited) ORDER BY w.id FOR SHARE;
        RAISE EXCEPTION USING ERRCODE = 'PR002';
    EXCEPTION WHEN SQLSTATE 'PR002' THEN
        NULL;
    END;
END $$;

-- The function searches the schema of the tables, and pg_temp last: otherwise a temporary table of its caller would come first.
DO $$
BEGIN
    EXECUTE format('ALTER FUNCTION promise_await_settlements(UUID[], UUID[]) SET search_path = %I, pg_temp', current_schema());
END $$;
REVOKE ALL ON FUNCTION promise_await_settlements(UUID[], UUID[]) FROM PUBLIC;
-- +goose StatementEnd

-- +goose StatementBegin
-- Reports whether the deadline settled a promise. No caller settles with timed_out, and some promises have no settled_by_kind. The planner
-- inlines the function.
CREATE OR REPLACE FUNCTION promise_by_deadline(outcome VARCHAR, settled_by_kind VARCHAR) RETURNS BOOLEAN LANGUAGE sql IMMUTABLE AS
    $$ SELECT outcome = 'timed_out' OR settled_by_kind IS NOT DISTINCT FROM 'deadline' $$;
-- +goose StatementEnd

-- +goose StatementBegin
-- Creates a promise and registers its idempotency key, both or neither. Registers the workflow execution, too, if it is not known yet.
--
-- Arguments:
--   tenant_slug             the tenant
--   workflow                the workflow execution
--   new_external_id         the text from which the execution's id was derived, or NULL. The first one that is given stays.
--   new_name                the promise's name, unique in its workflow execution
--   new_key, key_ttl        its idempotency key and how long the key stays registered, or NULL
--   new_timeout, new_timeout_at  the deadline, counted from the creation or as a moment; both NULL for none
--   new_metadata            metadata, or NULL
--   deadline_outcome, deadline_value, deadline_error  the outcome, value and error at the deadline; all NULL for timed_out
--   workflow_limit          how many promises a workflow execution may have if its tenant has no limit of its own
--   waited                  TRUE if the caller has called promise_await_settlements for the promise of the key
--
-- Returns NULL if the tenant is unknown or suspended, or if the workflow execution belongs to another tenant. Otherwise:
--   what             'created', 'existing', 'key_holder', 'pending_full' or 'workflow_full'
--   it               the promise. created: the new one. existing: the one that the workflow execution already has under this name.
--                    key_holder: the one that the key belongs to, without value, error, metadata, timeout_value and timeout_error.
--                    Otherwise a placeholder: a quota refused the promise, and nothing was written.
--   external_id      the external id that the workflow execution has
--   doubtful         TRUE if it is uncertain whether the key_holder still has the key: only its deadline ends it, and an extension that has
--                    not committed may keep it pending. The caller calls promise_await_settlements, and then this function again with
--                    waited = TRUE.
--   same_key, same_metadata, same_on_timeout
--                    whether the existing promise has the same key, metadata and default outcome
--   lost_hold        TRUE if an early settlement under the key was discarded, because it arrived after the deadline or had expired
--
-- Quotas: tenant.pending_full refuses a promise, unless an early settlement settles it at once. workflow_execution.promises_left refuses one at
-- 0, and above the limit, which may have been lowered. The limit is tenant.max_workflow_promises or, if that is NULL, workflow_limit, and a new
-- execution starts with it. An execution from before the quota starts with the limit less its last sequence number, which is at least the
-- number of its promises. The caller recounts a full execution.
--
-- An early settlement under the key settles the new promise, if it arrived before the deadline and has not expired. A create takes over a key
-- that has expired and whose promise is settled, if the key's row is still as it was read.
--
-- The first statement creates the row of a new workflow execution, or takes the next number of a known one. It does so only if neither the
-- promise nor the key exists, no quota is full, and promises_left is set and within the limit. Otherwise the function reads all rows at one
-- moment and decides by them.
--
-- Locks: the workflow execution's row, then the promise's, then the key's. The rows are first read without a lock. If another create commits in
-- between, this one fails on promise_workflow_execution_id_name_key or, if the other took the key, raises promise_race_lost. Nothing is
-- written, and the caller retries.
--
-- Indexes: promise_workflow_execution_id_name_key, idempotency_key_pkey, promise_pkey, workflow_execution_pkey.
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
            COALESCE(promise_key_uncertain(k.expires_at, q.resolved, q.timeout_at, NOW()) AND NOT settlements_awaited, FALSE)
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

-- +goose StatementBegin
-- Returns the outcome of a promise whose deadline has passed: its default outcome, or timed_out. The planner inlines the function.
CREATE OR REPLACE FUNCTION promise_deadline_outcome(timeout_outcome VARCHAR) RETURNS VARCHAR LANGUAGE sql IMMUTABLE AS
    $$ SELECT COALESCE(timeout_outcome, 'timed_out') $$;
-- +goose StatementEnd

-- +goose StatementBegin
-- Erases the contents of a settled promise: value, error, metadata, comment and default outcome. Its state, name, key, times, numbers and the
-- kind and id of its settler stay. If the deadline has passed and is not recorded yet, the function first records it, as the sweep does.
--
-- Arguments: the tenant's slug, and the promise's id or, if that is NULL, its idempotency key.
-- Returns: the promise after the call. A pending promise, and one that was erased before, are returned unchanged. NULL if the tenant has
-- no such promise.
--
-- SECURITY DEFINER: no role but the owner may update erased_at or metadata.
--
-- Locks: the promise's row. If there is a deadline to record, the workflow execution's row before that, behind running settlements. If one
-- of them settled the promise or moved the deadline, the function raises promise_race_lost: everything is rolled back, and the caller retries.
--
-- Indexes: promise_pkey, idempotency_key_pkey, workflow_execution_pkey.
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
        SET resolved = TRUE, outcome = promise_deadline_outcome(timeout_outcome), resolved_at = timeout_at, resolved_by_sequence = number,
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

-- The function searches the schema of the tables, and pg_temp last: otherwise a temporary table of its caller would come first.
DO $$
BEGIN
    EXECUTE format('ALTER FUNCTION promise_erase(VARCHAR, UUID, VARCHAR) SET search_path = %I, pg_temp', current_schema());
END $$;
REVOKE ALL ON FUNCTION promise_erase(VARCHAR, UUID, VARCHAR) FROM PUBLIC;
-- +goose StatementEnd

-- +goose StatementBegin
-- Reports whether only an unrecorded deadline ends a key at a moment. An extension that has not committed may keep the promise pending, and with
-- it the key. The result may be NULL instead of FALSE. The planner inlines the function.
CREATE OR REPLACE FUNCTION promise_key_uncertain(expires_at TIMESTAMPTZ, resolved BOOLEAN, timeout_at TIMESTAMPTZ, moment TIMESTAMPTZ)
RETURNS BOOLEAN LANGUAGE sql IMMUTABLE AS
    $$ SELECT NOT resolved AND expires_at <= moment AND timeout_at <= moment $$;
-- +goose StatementEnd

-- +goose StatementBegin
-- Settles a pending promise of a tenant, or reports why it is not pending.
--
-- Arguments:
--   tenant_slug            the tenant
--   given_id, given_key    the promise: its id or, if given_id is NULL, its idempotency key
--   new_outcome            'resolved', 'rejected' or 'cancelled'
--   new_value, new_error   the settlement's value, or its error; the other is NULL, and both may be if it is cancelled
--   new_kind, new_by       the kind and the id of the caller; the id may be NULL
--   new_comment            a comment, or NULL
--
-- Returns NULL if the tenant is unknown or suspended, if it has no such promise, or if the key names no promise any more. Otherwise:
--   promise_id             the promise
--   workflow_execution_id  its workflow execution
--   state                  the promise's state after the call
--   by_deadline            TRUE if the deadline settled the promise
--   same                   TRUE if it was already settled with the same outcome, value and error, and has not been erased
--   settled                TRUE if this call settled it
--   overdue_since          NULL. The functions of an earlier release read it.
--
-- The function settles first, and reads the promise only if nothing was settled. The settled row is also the event of the settlement.
--
-- Locks: the workflow execution's row, whose update hands out the event's number, then the promise's row. The function first reads without a
-- lock whether the promise is pending. Under the first lock it reads the clock, and by that time it judges the deadline again.
--
-- Unrecorded deadlines: if nothing has recorded a deadline that has passed, a settlement or an extension in time may not have committed yet. So
-- the function calls promise_await_settlements and reads the promise again. This second look is final: a later settlement or extension reads a
-- later clock, and is late. If an extension has moved the deadline beyond the call's time, the function raises promise_race_lost.
--
-- Races: if another call settles the promise while this one waits for the lock, or extends it while this one reads, the function raises
-- promise_race_lost. Everything is rolled back, and the caller retries with the id in the error's DETAIL, because the key may name another
-- promise by then. No create can take a key over while its promise is pending. If the promise is not pending, the key must still name it
-- after the promise was read.
--
-- Indexes: promise_pkey, idempotency_key_pkey, workflow_execution_pkey.
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
    deadline_outcome VARCHAR; -- the default outcome, or NULL
    settled_by VARCHAR;
    stored_value BYTEA;
    stored_error TEXT;
    erased_since TIMESTAMPTZ;
    settlements_awaited BOOLEAN := FALSE;
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

    LOOP
        SELECT p.workflow_execution_id, p.resolved, p.resolved_at, p.outcome, p.timeout_at, p.timeout_outcome, p.settled_by_kind,
               p.value, p.error, p.erased_at
        INTO workflow_id, already_settled, settled_at, state, deadline, deadline_outcome, settled_by, stored_value, stored_error, erased_since
        FROM promise p
        WHERE p.id = target_id AND p.tenant_id = caller_tenant;
        IF NOT FOUND THEN
            RETURN NULL;
        END IF;
        IF NOT already_settled AND (deadline IS NULL OR deadline > NOW()) THEN -- an extension has committed since the update
            PERFORM promise_race_lost(target_id);
        END IF;
        EXIT WHEN already_settled OR settlements_awaited;
        PERFORM promise_await_settlements(ARRAY[target_id], ARRAY[workflow_id]);
        settlements_awaited := TRUE;
    END LOOP;
    moment := CLOCK_TIMESTAMP(); -- a variable: a volatile argument would keep promise_key_names from being inlined
    IF key_until IS NOT NULL AND NOT promise_key_names(key_until, already_settled, settled_at, deadline, moment) THEN
        RETURN NULL;
    END IF;
    IF already_settled THEN
        RETURN (
            target_id, workflow_id, state, promise_by_deadline(state, settled_by),
            erased_since IS NULL AND state = new_outcome AND stored_value IS NOT DISTINCT FROM new_value
                AND stored_error IS NOT DISTINCT FROM new_error,
            FALSE, NULL
        )::settle_result;
    END IF;
    RETURN (target_id, workflow_id, promise_deadline_outcome(deadline_outcome), TRUE, FALSE, FALSE, NULL)::settle_result;
END $$;
-- +goose StatementEnd
