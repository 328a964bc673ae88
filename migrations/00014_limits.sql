-- Limits of a tenant: pending promises, promises of one workflow execution, early settlements and their bytes. No statement finds a suspended
-- tenant any more. A tenant can be deleted.
--
-- The sweep counts a tenant's rows (tenant_usage) and sets pending_full and held_full, which a create and an early settlement read in the
-- tenant's row. So no call pays for a shared counter. The promises of one execution are counted down in the update that hands out the
-- create's number.
--
-- The functions of the previous release work on this schema: the promise_create that they use calls the new one, and promise_settle
-- is replaced in place. They do not know the quotas: a call of theirs that a quota refuses is answered 503.
--
-- Locks tenant, workflow_execution and idempotency_key against all others from here to the end, or gives up after a second for each. Two
-- indexes are built under the locks.

-- +goose Up
SET LOCAL lock_timeout = '1s';
SET LOCAL statement_timeout = 0;
SET LOCAL maintenance_work_mem = '256MB';
LOCK TABLE tenant, workflow_execution, idempotency_key IN ACCESS EXCLUSIVE MODE;

-- If a limit is NULL, the service's own limit applies. deleted_at: the time since which the tenant is being deleted; it stays suspended.
ALTER TABLE tenant
    ADD COLUMN pending_full          BOOLEAN NOT NULL DEFAULT FALSE,
    ADD COLUMN held_full             BOOLEAN NOT NULL DEFAULT FALSE,
    ADD COLUMN max_pending           BIGINT CHECK (max_pending >= 0),
    ADD COLUMN max_workflow_promises INT CHECK (max_workflow_promises >= 1),
    ADD COLUMN max_held              BIGINT CHECK (max_held >= 0),
    ADD COLUMN max_held_bytes        BIGINT CHECK (max_held_bytes >= 0),
    ADD COLUMN deleted_at            TIMESTAMPTZ,
    ADD CONSTRAINT tenant_deleted_suspended CHECK (deleted_at IS NULL OR suspended_at IS NOT NULL);

-- The last count of a tenant's promises and early settlements.
CREATE TABLE tenant_usage (
    tenant_id  UUID PRIMARY KEY REFERENCES tenant (id) ON DELETE CASCADE,
    pending    BIGINT NOT NULL,
    held       BIGINT NOT NULL,
    held_bytes BIGINT NOT NULL,
    counted_at TIMESTAMPTZ NOT NULL
);

-- The slugs of deleted tenants. A process may cache a slug's former id for some minutes, and during that time no other tenant gets the slug.
CREATE TABLE deleted_tenant (
    slug       VARCHAR(255) PRIMARY KEY,
    tenant_id  UUID NOT NULL,
    deleted_at TIMESTAMPTZ NOT NULL
);

-- promises_left: the number of promises that the execution may still get; NULL until the first create after this file. promises_counted_at: the
-- last recount. No CHECK: each update of an execution's number would evaluate it.
ALTER TABLE workflow_execution
    ADD COLUMN promises_left       INT,
    ADD COLUMN promises_counted_at TIMESTAMPTZ;

-- The functions of the previous release create promises as promises_app, through the new function, which needs these columns. The grants in access/
-- come after the last file, and not at all if a later file fails.
-- +goose StatementBegin
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'promises_app') THEN
        GRANT UPDATE (promises_left, promises_counted_at) ON workflow_execution TO promises_app;
    END IF;
END $$;
-- +goose StatementEnd

CREATE INDEX idx_workflow_execution_tenant ON workflow_execution (tenant_id);
CREATE INDEX idx_idempotency_key_held ON idempotency_key (tenant_id, key) WHERE held_at IS NOT NULL;

-- Settles a promise. migrations/functions has the current text and the contract. From this version on the function does not find a suspended tenant.
-- 00016 adds the column erased_at.
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
    SELECT id INTO caller FROM tenant WHERE slug = tenant_slug AND suspended_at IS NULL;
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

-- Creates a promise. migrations/functions has the current text, with other names for its variables, and the contract.
-- +goose StatementBegin
CREATE FUNCTION promise_create(
    tenant_slug VARCHAR, workflow UUID, new_external_id VARCHAR, new_name VARCHAR, new_key VARCHAR, key_ttl INTERVAL,
    new_timeout INTERVAL, new_timeout_at TIMESTAMPTZ, new_metadata JSONB, deadline_outcome VARCHAR, deadline_value BYTEA,
    deadline_error TEXT, workflow_limit INT, waited BOOLEAN
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
    refused VARCHAR;
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
    RETURNING w.tenant_id, w.last_sequence_number, w.external_id, CLOCK_TIMESTAMP() INTO caller, number, known_as, moment;

    IF NOT FOUND THEN
        SELECT
            t.id AS caller, t.pending_full, COALESCE(t.max_workflow_promises, workflow_limit) AS workflow_limit,
            p AS existing, q AS holder, k AS key, p.id AS existing_id,
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
        WHERE t.slug = tenant_slug AND t.suspended_at IS NULL
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

        IF seen.pending_full AND NOT seen.settles THEN
            refused := 'pending_full';
        ELSE
            INSERT INTO workflow_execution AS w (id, tenant_id, last_sequence_number, external_id, promises_left)
            VALUES (workflow, seen.caller, CASE WHEN seen.settles THEN 2 ELSE 1 END, new_external_id, seen.workflow_limit - 1)
            ON CONFLICT (id) DO UPDATE
                SET last_sequence_number = w.last_sequence_number + EXCLUDED.last_sequence_number,
                    external_id = COALESCE(w.external_id, EXCLUDED.external_id),
                    promises_left = COALESCE(w.promises_left, EXCLUDED.promises_left + 1 - w.last_sequence_number) - 1
                WHERE w.tenant_id = EXCLUDED.tenant_id
                    AND COALESCE(w.promises_left, EXCLUDED.promises_left + 1 - w.last_sequence_number)
                        BETWEEN 1 AND EXCLUDED.promises_left + 1
            RETURNING w.tenant_id, w.last_sequence_number, w.external_id, CLOCK_TIMESTAMP() INTO caller, number, known_as, moment;
            IF NOT FOUND THEN
                PERFORM FROM workflow_execution w WHERE w.id = workflow AND w.tenant_id = seen.caller;
                IF NOT FOUND THEN
                    RETURN NULL;
                END IF;
                refused := 'workflow_full';
            END IF;
        END IF;
        IF refused IS NOT NULL THEN
            it.id := '00000000-0000-0000-0000-000000000000';
            it.workflow_execution_id := workflow;
            it.name := new_name;
            it.created_at := NOW();
            it.created_by_sequence := 0;
            RETURN (refused, it, NULL, FALSE, TRUE, TRUE, TRUE, FALSE)::promise_created;
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

-- The function that the previous release calls, with the service's own limit for a workflow execution. The previous release does not know
-- the quotas. The error's class means insufficient resources, and that release answers it with 503. A later file drops the function.
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION promise_create(
    tenant_slug VARCHAR, workflow UUID, new_external_id VARCHAR, new_name VARCHAR, new_key VARCHAR, key_ttl INTERVAL,
    new_timeout INTERVAL, new_timeout_at TIMESTAMPTZ, new_metadata JSONB, deadline_outcome VARCHAR, deadline_value BYTEA,
    deadline_error TEXT, waited BOOLEAN
) RETURNS promise_created LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
    made promise_created;
BEGIN
    made := promise_create(
        tenant_slug, workflow, new_external_id, new_name, new_key, key_ttl, new_timeout, new_timeout_at, new_metadata, deadline_outcome,
        deadline_value, deadline_error, 1000000, waited
    );
    IF made.what IN ('pending_full', 'workflow_full') THEN
        RAISE EXCEPTION 'a quota of the tenant is full' USING ERRCODE = '53Q00';
    END IF;
    RETURN made;
END $$;
-- +goose StatementEnd

-- Deletes one batch of the rows of a tenant. migrations/functions has the current text and the contract.
-- +goose StatementBegin
CREATE FUNCTION tenant_delete(
    tenant_slug VARCHAR, batch INT,
    OUT promises INT, OUT keys INT, OUT events INT, OUT executions INT, OUT api_keys INT, OUT done BOOLEAN
) LANGUAGE plpgsql SECURITY DEFINER SET enable_seqscan = off AS $$
#variable_conflict use_variable
DECLARE
    doomed UUID;
    locked UUID[];
    ids UUID[];
    settled INT;
BEGIN
    SELECT t.id INTO doomed FROM tenant t WHERE t.slug = tenant_slug AND t.deleted_at IS NOT NULL;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    promises := 0;
    keys := 0;
    executions := 0;
    api_keys := 0;
    done := FALSE;

    locked := ARRAY(SELECT w.id FROM workflow_execution w WHERE w.tenant_id = doomed LIMIT batch FOR UPDATE SKIP LOCKED);
    DELETE FROM workflow_event_row
    WHERE ctid = ANY (ARRAY(SELECT e.ctid FROM workflow_event_row e WHERE e.workflow_execution_id = ANY (locked) LIMIT batch));
    GET DIAGNOSTICS events = ROW_COUNT;
    IF events = batch THEN
        RETURN;
    END IF;

    ids := ARRAY(
        SELECT p.id FROM promise p WHERE p.workflow_execution_id = ANY (locked) LIMIT batch - events FOR UPDATE SKIP LOCKED
    );
    DELETE FROM idempotency_key k WHERE k.promise_id = ANY (ids);
    GET DIAGNOSTICS keys = ROW_COUNT;
    WITH gone AS (
        DELETE FROM promise p WHERE p.id = ANY (ids) RETURNING p.settled_by_kind <> 'deadline' AS is_event
    )
    SELECT COUNT(*), COUNT(*) FILTER (WHERE gone.is_event) INTO promises, settled FROM gone;
    events := events + settled;
    IF CARDINALITY(ids) = batch THEN
        RETURN;
    END IF;

    DELETE FROM workflow_execution w
    WHERE w.id = ANY (locked) AND NOT EXISTS (SELECT FROM promise p WHERE p.workflow_execution_id = w.id);
    GET DIAGNOSTICS executions = ROW_COUNT;
    IF CARDINALITY(locked) > 0 OR EXISTS (SELECT FROM workflow_execution w WHERE w.tenant_id = doomed) THEN
        RETURN;
    END IF;

    DELETE FROM idempotency_key k
    WHERE k.tenant_id = doomed AND k.key = ANY (ARRAY(
        SELECT h.key FROM idempotency_key h WHERE h.tenant_id = doomed LIMIT batch FOR UPDATE SKIP LOCKED
    ));
    GET DIAGNOSTICS keys = ROW_COUNT;
    IF EXISTS (SELECT FROM idempotency_key k WHERE k.tenant_id = doomed) THEN
        RETURN;
    END IF;

    DELETE FROM api_key a WHERE a.tenant_id = doomed;
    GET DIAGNOSTICS api_keys = ROW_COUNT;
    DELETE FROM tenant t WHERE t.id = doomed;
    done := FOUND;
    IF NOT done THEN -- another call has just deleted the last batch
        done := TRUE;
        RETURN;
    END IF;
    INSERT INTO deleted_tenant AS d (slug, tenant_id, deleted_at) VALUES (tenant_slug, doomed, CLOCK_TIMESTAMP())
    ON CONFLICT (slug) DO UPDATE SET tenant_id = EXCLUDED.tenant_id, deleted_at = EXCLUDED.deleted_at;
END $$;
-- +goose StatementEnd

-- Counts the rows of a tenant. migrations/functions has the current text and the contract.
-- +goose StatementBegin
CREATE FUNCTION tenant_contents(tenant_slug VARCHAR, bound INT)
RETURNS TABLE (promises BIGINT, keys BIGINT, events BIGINT, executions BIGINT, api_keys BIGINT)
LANGUAGE sql STABLE SECURITY DEFINER SET enable_seqscan = off AS $$
    SELECT
        (SELECT COUNT(*) FROM (SELECT FROM promise p WHERE p.tenant_id = t.id LIMIT bound + 1) AS n),
        (SELECT COUNT(*) FROM (SELECT FROM idempotency_key k WHERE k.tenant_id = t.id LIMIT bound + 1) AS n),
        (SELECT LEAST(
            bound + 1,
            (SELECT COUNT(*) FROM (
                SELECT
                FROM workflow_execution w
                CROSS JOIN LATERAL (SELECT FROM workflow_event_row e WHERE e.workflow_execution_id = w.id OFFSET 0) AS logged
                WHERE w.tenant_id = t.id
                LIMIT bound + 1
            ) AS n)
            + (SELECT COUNT(*) FROM (
                SELECT p.settled_by_kind FROM promise p WHERE p.tenant_id = t.id AND p.outcome IS NOT NULL LIMIT bound + 1
            ) AS n WHERE n.settled_by_kind <> 'deadline')
        )),
        (SELECT COUNT(*) FROM (SELECT FROM workflow_execution w WHERE w.tenant_id = t.id LIMIT bound + 1) AS n),
        (SELECT COUNT(*) FROM (SELECT FROM api_key a WHERE a.tenant_id = t.id LIMIT bound + 1) AS n)
    FROM tenant t
    WHERE t.slug = tenant_slug
$$;
-- +goose StatementEnd

-- A SECURITY DEFINER function searches this schema and pg_temp alone, and only the roles that are granted it may call it.
-- +goose StatementBegin
DO $$
DECLARE
    name TEXT;
BEGIN
    FOREACH name IN ARRAY ARRAY['tenant_delete(VARCHAR, INT)', 'tenant_contents(VARCHAR, INT)'] LOOP
        EXECUTE format('ALTER FUNCTION %s SET search_path = %I, pg_temp', name, current_schema());
        EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', name);
    END LOOP;
END $$;
-- +goose StatementEnd
