-- Promises notify their waiters: destinations, and one delivery for each target of a promise.
--
-- promise.notifies says whether a promise has targets, and tenant.default_destination_id the destination of promises that are created without
-- notify. The trigger promise_delivery_due makes the deliveries of a promise due in the transaction that settles it. Without targets it costs
-- the evaluation of its condition.
--
-- The functions of the previous release work on this schema: they create promises without targets, and every settlement notifies.
--
-- API keys may have the scope deliver.
--
-- Locks promise, tenant and api_key against all others for a moment (none is rewritten; api_key is read once), or gives up after a second for each.

-- +goose Up
SET LOCAL lock_timeout = '1s';
LOCK TABLE tenant, promise, api_key IN ACCESS EXCLUSIVE MODE;

-- A place to which deliveries go. A deleted one stays without its name while it has deliveries. disabled_because says why the service disabled it;
-- a destination with enabled = FALSE alone was paused by its tenant. A destination that a target names by its kind alone has the kind as its
-- name, and is created when it is first needed.
CREATE TABLE destination (
    id UUID PRIMARY KEY DEFAULT gen_random_uuid(),
    tenant_id UUID NOT NULL REFERENCES tenant (id),
    name VARCHAR(63) NOT NULL,
    kind VARCHAR(20) NOT NULL,
    address VARCHAR(2048),
    mail_from VARCHAR(320),
    region VARCHAR(32),
    role_arn VARCHAR(2048),
    enabled BOOLEAN NOT NULL DEFAULT TRUE,
    disabled_because VARCHAR(500),
    created_at TIMESTAMPTZ NOT NULL DEFAULT NOW(),
    updated_at TIMESTAMPTZ NOT NULL DEFAULT NOW(),
    deleted_at TIMESTAMPTZ,
    CONSTRAINT destination_kind_known CHECK (
        kind IN ('https', 'sqs', 'sns', 'eventbridge', 'lambda', 'email', 'stepFunctions', 'durableExecution')
    ),
    CONSTRAINT destination_disabled CHECK (disabled_because IS NULL OR NOT enabled)
);
CREATE UNIQUE INDEX idx_destination_name ON destination (tenant_id, name) WHERE deleted_at IS NULL;
CREATE INDEX idx_destination_tenant ON destination (tenant_id);
CREATE INDEX idx_destination_deleted ON destination (deleted_at) WHERE deleted_at IS NOT NULL;

-- The secrets that sign the messages to a destination, encrypted: see shared/seal, with the purpose 'destination_secret.sealed' and the
-- destination's id as the row. The newest version signs, and so does the one before until its retire_at.
CREATE TABLE destination_secret (
    destination_id UUID NOT NULL REFERENCES destination (id) ON DELETE CASCADE,
    version INT NOT NULL,
    sealed BYTEA NOT NULL,
    created_at TIMESTAMPTZ NOT NULL DEFAULT NOW(),
    retire_at TIMESTAMPTZ,
    PRIMARY KEY (destination_id, version),
    CONSTRAINT destination_secret_sealed CHECK (OCTET_LENGTH(sealed) BETWEEN 37 AND 4096 AND GET_BYTE(sealed, 0) = 1)
);
CREATE INDEX idx_destination_secret_key ON destination_secret (SUBSTRING(sealed FROM 1 FOR 9)); -- the id of the sealing key
CREATE INDEX idx_destination_secret_retire ON destination_secret (retire_at) WHERE retire_at IS NOT NULL;

-- One target of a promise. state is waiting while the promise is pending, then due, and finally delivered, gone or dead. Only a due delivery has a
-- due_at: the time of its next attempt. A relay that sends it holds it by a lease, and has moved due_at to the lease's end.
CREATE TABLE delivery (
    id UUID PRIMARY KEY DEFAULT gen_random_uuid(),
    tenant_id UUID NOT NULL,
    promise_id UUID NOT NULL REFERENCES promise (id) ON DELETE CASCADE,
    target SMALLINT NOT NULL,
    destination_id UUID NOT NULL REFERENCES destination (id),
    by_default BOOLEAN NOT NULL DEFAULT FALSE,
    token VARCHAR(2048),
    state VARCHAR(9) NOT NULL,
    due_at TIMESTAMPTZ,
    lease UUID,
    attempts INT NOT NULL DEFAULT 0,
    created_at TIMESTAMPTZ NOT NULL,
    last_attempt_at TIMESTAMPTZ,
    last_status INT,
    last_error VARCHAR(500),
    ended_at TIMESTAMPTZ,
    end_reason VARCHAR(500),
    UNIQUE (promise_id, target),
    CONSTRAINT delivery_state_known CHECK (state IN ('waiting', 'due', 'delivered', 'gone', 'dead')),
    CONSTRAINT delivery_due CHECK ((state = 'due') = (due_at IS NOT NULL))
) WITH (autovacuum_vacuum_scale_factor = 0.02);
CREATE INDEX idx_delivery_due ON delivery (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX idx_delivery_due_by_destination ON delivery (destination_id, due_at) WHERE due_at IS NOT NULL;
CREATE INDEX idx_delivery_destination ON delivery (destination_id, state, created_at, id);

-- A call of send-deliveries that a relay has under way. The rows of a destination, and of a tenant, bound the calls at the same time.
CREATE TABLE delivery_lease (
    id UUID PRIMARY KEY,
    tenant_id UUID NOT NULL,
    destination_id UUID NOT NULL,
    expires_at TIMESTAMPTZ NOT NULL
) WITH (autovacuum_vacuum_threshold = 200, autovacuum_vacuum_scale_factor = 0);
CREATE INDEX idx_delivery_lease_expires ON delivery_lease (expires_at);

ALTER TABLE promise ADD COLUMN notifies BOOLEAN; -- TRUE: it has targets; NULL or FALSE: it has none
-- No foreign key: tenant and destination would refer to each other. The statement that deletes a destination clears it.
ALTER TABLE tenant ADD COLUMN default_destination_id UUID;

ALTER TABLE api_key
    DROP CONSTRAINT api_key_scopes_known,
    ADD CONSTRAINT api_key_scopes_known CHECK (
        CARDINALITY(scopes) > 0 AND scopes <@ ARRAY['create', 'settle', 'read', 'manage', 'deliver']::VARCHAR[]
    );

DROP FUNCTION promise_create(VARCHAR, UUID, VARCHAR, VARCHAR, VARCHAR, INTERVAL, INTERVAL, TIMESTAMPTZ, JSONB, VARCHAR, BYTEA, TEXT, INT, BOOLEAN);

-- +goose StatementBegin
-- The body is below.
CREATE FUNCTION delivery_due() RETURNS TRIGGER LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
-- +goose StatementEnd
-- Postgres parses the condition again for each statement, so it is short. The column resolved is updated once, by the settlement.
CREATE TRIGGER promise_delivery_due AFTER UPDATE OF resolved ON promise
    FOR EACH ROW WHEN (NEW.notifies) EXECUTE FUNCTION delivery_due();

-- From here on: copies of files in migrations/functions. Edit those, and repeat `go run ./migrations/snapshot NAME`.

-- +goose StatementBegin
-- Creates the deliveries of a promise that is being created, one for each target, numbered from 1.
--
-- Arguments:
--   of_promise   the new promise
--   moment       the time of its creation
--   notify       three texts for each target. First the kind of completion, 'stepFunctions' or 'durableExecution', or NULL for a message. Then its
--                destination's name; NULL is the destination that has the kind as its name, which the function creates if needed. Then the task
--                token or the callback id, or NULL for a message. Three times NULL is the tenant's default destination.
--
-- If a destination does not exist, or is of another kind than its target, the function raises SQLSTATE PR003 with the destination's name in the
-- DETAIL, its kind, if it exists, in the HINT, and the target's number, counted from 0, as COLUMN. If the service has disabled it, the SQLSTATE is PR004,
-- and the HINT is the reason. Nothing is written. A destination that its tenant has paused is a target as every other, and so is a disabled one
-- that is the default. If the tenant has no default any more, the function raises promise_race_lost, and the caller retries.
--
-- SECURITY DEFINER: the function may create the destination of a kind.
--
-- Locks: the destinations' rows FOR KEY SHARE, through the foreign key, after the promise's.
--
-- Indexes: idx_destination_name, destination_pkey.
CREATE OR REPLACE FUNCTION delivery_create(of_promise promise, moment TIMESTAMPTZ, notify VARCHAR[]) RETURNS VOID
LANGUAGE plpgsql SECURITY DEFINER AS $$
#variable_conflict use_variable
DECLARE
    first_state VARCHAR := CASE WHEN of_promise.resolved THEN 'due' ELSE 'waiting' END;
    first_due TIMESTAMPTZ := CASE WHEN of_promise.resolved THEN moment END;
    found_row destination;
    target_kind VARCHAR;
    target_name VARCHAR;
BEGIN
    FOR n IN 1 .. CARDINALITY(notify) / 3 LOOP
        target_kind := notify[3 * n - 2];
        target_name := notify[3 * n - 1];
        IF target_kind IS NULL AND target_name IS NULL THEN
            INSERT INTO delivery (tenant_id, promise_id, target, destination_id, by_default, state, due_at, created_at)
            SELECT t.id, of_promise.id, n, t.default_destination_id, TRUE, first_state, first_due, moment
            FROM tenant t
            WHERE t.id = of_promise.tenant_id AND t.default_destination_id IS NOT NULL;
            IF NOT FOUND THEN -- a concurrent call has deleted the default
                PERFORM promise_race_lost(of_promise.id);
            END IF;
            CONTINUE;
        END IF;
        SELECT d.* INTO found_row
        FROM destination d
        WHERE d.tenant_id = of_promise.tenant_id AND d.name = COALESCE(target_name, target_kind) AND d.deleted_at IS NULL;
        IF NOT FOUND AND target_name IS NULL THEN
            INSERT INTO destination (tenant_id, name, kind)
            SELECT of_promise.tenant_id, needed.kind, needed.kind
            FROM (
                SELECT DISTINCT notify[3 * i - 2] AS kind
                FROM GENERATE_SERIES(n, CARDINALITY(notify) / 3) AS i
                WHERE notify[3 * i - 1] IS NULL AND notify[3 * i - 2] IS NOT NULL
            ) AS needed
            ORDER BY needed.kind -- the same order in each call, so that no two deadlock
            ON CONFLICT (tenant_id, name) WHERE deleted_at IS NULL DO NOTHING;
            SELECT d.* INTO found_row
            FROM destination d
            WHERE d.tenant_id = of_promise.tenant_id AND d.name = target_kind AND d.deleted_at IS NULL;
            IF NOT FOUND THEN -- a concurrent call has deleted it
                PERFORM promise_race_lost(of_promise.id);
            END IF;
        END IF;
        IF found_row.id IS NULL
            OR target_kind IS DISTINCT FROM (CASE WHEN found_row.kind IN ('stepFunctions', 'durableExecution') THEN found_row.kind END)
        THEN
            RAISE EXCEPTION 'no destination % for this target', target_name
                USING ERRCODE = 'PR003', DETAIL = target_name, HINT = COALESCE(found_row.kind, ''), COLUMN = (n - 1)::TEXT;
        END IF;
        IF found_row.disabled_because IS NOT NULL THEN
            RAISE EXCEPTION 'destination % is disabled', found_row.name
                USING ERRCODE = 'PR004', DETAIL = found_row.name, HINT = found_row.disabled_because, COLUMN = (n - 1)::TEXT;
        END IF;
        INSERT INTO delivery (tenant_id, promise_id, target, destination_id, token, state, due_at, created_at)
        VALUES (of_promise.tenant_id, of_promise.id, n, found_row.id, notify[3 * n], first_state, first_due, moment);
    END LOOP;
END $$;

-- The function searches the schema of the tables, and pg_temp last: otherwise a temporary table of its caller would come first.
DO $$
BEGIN
    EXECUTE format('ALTER FUNCTION delivery_create(promise, TIMESTAMPTZ, VARCHAR[]) SET search_path = %I, pg_temp', current_schema());
END $$;
REVOKE ALL ON FUNCTION delivery_create(promise, TIMESTAMPTZ, VARCHAR[]) FROM PUBLIC;
-- +goose StatementEnd

-- +goose StatementBegin
-- Makes the deliveries of a promise due. The trigger promise_delivery_due runs it in the transaction that settles the promise, for each promise
-- that has targets, however it is settled.
--
-- SECURITY DEFINER: every role that may settle a promise notifies its waiters, and needs no right to a delivery.
--
-- Locks: the deliveries' rows, after the promise's.
--
-- Indexes: delivery_promise_id_target_key.
CREATE OR REPLACE FUNCTION delivery_due() RETURNS TRIGGER LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    UPDATE delivery SET state = 'due', due_at = CLOCK_TIMESTAMP() WHERE promise_id = NEW.id AND state = 'waiting';
    RETURN NULL;
END $$;

-- The function searches the schema of the tables, and pg_temp last: otherwise a temporary table of its caller would come first.
DO $$
BEGIN
    EXECUTE format('ALTER FUNCTION delivery_due() SET search_path = %I, pg_temp', current_schema());
END $$;
REVOKE ALL ON FUNCTION delivery_due() FROM PUBLIC;
-- +goose StatementEnd

-- +goose StatementBegin
-- Replaces the tokens of a promise's deliveries by those of a repeated create, because an engine repeats a create with a new token. If the promise
-- is settled, a delivery with a new token is due at once, whatever happened to the former one. A delivery whose token is the same stays as it is.
--
-- Arguments: of_promise, the promise; notify, as that of delivery_create, or NULL for the default destination. The promise or the create has
-- targets.
--
-- If the promise has other targets, the function raises SQLSTATE PR005 with the promise's id in the DETAIL, and changes nothing. Destinations are
-- compared by their names, in the order of the targets.
--
-- If the destination of a new token was deleted, the delivery moves to the destination that has its name now, because the deliveries to a deleted
-- one end. If there is none, the function creates that of a kind, or raises SQLSTATE PR003 as delivery_create does, and changes nothing.
--
-- The state of a delivery says whether its promise is settled, because the settlement's transaction makes the delivery due. So the promise
-- needs no lock: of this update and a settlement, the later one sees the earlier one. A relay that is sending to the former token loses its lease, and
-- records nothing.
--
-- SECURITY DEFINER: only the relay may read or write a token.
--
-- Locks: the deliveries' rows, and the destinations' FOR KEY SHARE if one was deleted.
-- Indexes: delivery_promise_id_target_key, destination_pkey, delivery_pkey, idx_destination_name.
CREATE OR REPLACE FUNCTION delivery_renew(of_promise promise, notify VARCHAR[]) RETURNS VOID
LANGUAGE plpgsql SECURITY DEFINER AS $$
#variable_conflict use_variable
DECLARE
    same BOOLEAN;
    orphan RECORD;
BEGIN
    SELECT CASE
        WHEN notify IS NULL THEN BOOL_AND(v.by_default)
        ELSE COUNT(*) * 3 = CARDINALITY(notify) AND COALESCE(BOOL_AND(
            NOT v.by_default AND d.name = COALESCE(notify[3 * v.target - 1], notify[3 * v.target - 2])
            AND notify[3 * v.target - 2] IS NOT DISTINCT FROM CASE WHEN d.kind IN ('stepFunctions', 'durableExecution') THEN d.kind END
        ), TRUE)
    END
    INTO same
    FROM delivery v
    JOIN destination d ON d.id = v.destination_id
    WHERE v.promise_id = of_promise.id;
    IF same IS NOT TRUE THEN
        RAISE EXCEPTION 'promise % has other targets', of_promise.id USING ERRCODE = 'PR005', DETAIL = of_promise.id;
    END IF;
    FOR orphan IN
        SELECT v.target, d.name, d.kind
        FROM delivery v
        JOIN destination d ON d.id = v.destination_id
        WHERE v.promise_id = of_promise.id AND v.token <> notify[3 * v.target] AND d.deleted_at IS NOT NULL
        ORDER BY d.name, v.target
    LOOP
        IF notify[3 * orphan.target - 1] IS NULL THEN
            INSERT INTO destination (tenant_id, name, kind) VALUES (of_promise.tenant_id, orphan.kind, orphan.kind)
            ON CONFLICT (tenant_id, name) WHERE deleted_at IS NULL DO NOTHING;
        END IF;
        PERFORM FROM destination d
        WHERE d.tenant_id = of_promise.tenant_id AND d.name = orphan.name AND d.kind = orphan.kind AND d.deleted_at IS NULL;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'no destination % for this target', orphan.name
                USING ERRCODE = 'PR003', DETAIL = orphan.name, HINT = '', COLUMN = (orphan.target - 1)::TEXT;
        END IF;
    END LOOP;
    -- Each row is updated once: after a second update of one transaction, the foreign key would lock the promise behind its deliveries.
    UPDATE delivery v
    SET token = notify[3 * v.target],
        destination_id = COALESCE((
            SELECT d.id
            FROM destination former
            JOIN destination d ON d.tenant_id = former.tenant_id AND d.name = former.name AND d.kind = former.kind AND d.deleted_at IS NULL
            WHERE former.id = v.destination_id
        ), v.destination_id),
        state = CASE v.state WHEN 'waiting' THEN 'waiting' ELSE 'due' END,
        due_at = CASE v.state WHEN 'waiting' THEN NULL ELSE CLOCK_TIMESTAMP() END,
        lease = NULL, attempts = 0, ended_at = NULL, end_reason = NULL
    WHERE v.promise_id = of_promise.id AND v.token <> notify[3 * v.target];
END $$;

-- The function searches the schema of the tables, and pg_temp last: otherwise a temporary table of its caller would come first.
DO $$
BEGIN
    EXECUTE format('ALTER FUNCTION delivery_renew(promise, VARCHAR[]) SET search_path = %I, pg_temp', current_schema());
END $$;
REVOKE ALL ON FUNCTION delivery_renew(promise, VARCHAR[]) FROM PUBLIC;
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
--   notify                  the targets: see delivery_create. NULL for the tenant's default destination, if it has one.
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
--                    whether the existing promise has the same key, metadata and default outcome. If they are the same, or if only the key is and the promise
--                    is erased, its deliveries get the new tokens: see delivery_renew, which refuses other targets.
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
-- promise nor the key exists, no quota is full, promises_left is set and within the limit, and the tenant has no default destination. Otherwise the function reads all rows at one
-- moment and decides by them.
--
-- Locks: the workflow execution's row, then the promise's, then the key's, then those of delivery_create. The rows are first read without a lock. If another create commits in
-- between, this one fails on promise_workflow_execution_id_name_key or, if the other took the key, raises promise_race_lost. Nothing is
-- written, and the caller retries.
--
-- Indexes: promise_workflow_execution_id_name_key, idempotency_key_pkey, promise_pkey, workflow_execution_pkey.
CREATE OR REPLACE FUNCTION promise_create(
    tenant_slug VARCHAR, workflow UUID, new_external_id VARCHAR, new_name VARCHAR, new_key VARCHAR, key_ttl INTERVAL,
    new_timeout INTERVAL, new_timeout_at TIMESTAMPTZ, new_metadata JSONB, deadline_outcome VARCHAR, deadline_value BYTEA,
    deadline_error TEXT, workflow_limit INT, waited BOOLEAN,
    notify VARCHAR[] DEFAULT NULL
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
    early_expired BOOLEAN;
    promise_row promise; -- the promise to return
    stored_external_id VARCHAR;
    full_quota VARCHAR;
BEGIN
    INSERT INTO workflow_execution AS w (id, tenant_id, last_sequence_number, external_id, promises_left)
    SELECT workflow, t.id, 1, new_external_id, COALESCE(t.max_workflow_promises, workflow_limit) - 1
    FROM tenant t
    WHERE t.slug = tenant_slug AND t.suspended_at IS NULL AND NOT t.pending_full
      AND t.default_destination_id IS NULL
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
            t.id AS tenant, t.pending_full, t.default_destination_id AS default_destination, COALESCE(t.max_workflow_promises, workflow_limit) AS workflow_limit,
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
            promise_row := found_rows.existing;
            IF (notify <> '{}' OR promise_row.notifies) AND found_rows.same_key
                AND (promise_row.erased_at IS NOT NULL OR found_rows.same_metadata AND found_rows.same_on_timeout)
            THEN
                PERFORM delivery_renew(promise_row, notify);
            END IF;
            RETURN (
                'existing', promise_row, stored_external_id, FALSE, found_rows.same_key, found_rows.same_metadata,
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
        IF notify IS NULL AND found_rows.default_destination IS NOT NULL THEN
            notify := ARRAY[NULL, NULL, NULL];
        END IF;

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
            timeout_outcome, timeout_value, timeout_error, created_by_sequence, notifies
        )
        VALUES (
            workflow, caller_tenant, new_name, COALESCE(new_timeout_at, moment + new_timeout), moment, new_metadata, new_key,
            deadline_outcome, deadline_value, deadline_error, number, notify <> '{}'
        )
        RETURNING promise.* INTO promise_row;
    ELSE
        INSERT INTO promise (
            workflow_execution_id, tenant_id, name, timeout_at, created_at, metadata, idempotency_key,
            timeout_outcome, timeout_value, timeout_error, created_by_sequence, resolved_by_sequence,
            resolved, outcome, value, error, resolved_at, settled_by_kind, settled_by_id, comment, notifies
        )
        VALUES (
            workflow, caller_tenant, new_name, COALESCE(new_timeout_at, moment + new_timeout), moment, new_metadata, new_key,
            deadline_outcome, deadline_value, deadline_error, number - 1, number,
            TRUE, early_settlement.held_outcome, early_settlement.held_value, early_settlement.held_error, moment,
            early_settlement.held_by_kind, early_settlement.held_by_id, early_settlement.held_comment, notify <> '{}'
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

    IF notify IS NOT NULL THEN
        PERFORM delivery_create(promise_row, moment, notify);
    END IF;
    INSERT INTO workflow_event_row (workflow_execution_id, sequence_number, event_type, promise_id, created_at)
    VALUES (workflow, promise_row.created_by_sequence, 'PROMISE_CREATED', promise_row.id, moment);
    RETURN ('created', promise_row, stored_external_id, FALSE, TRUE, TRUE, TRUE, early_expired IS TRUE)::promise_created;
END $$;
-- +goose StatementEnd

-- +goose StatementBegin
-- Erases the contents of a settled promise: value, error, metadata, comment and default outcome. Its state, name, key, times, numbers and the
-- kind and id of its settler stay. Its deliveries that have not arrived end, and no delivery keeps the error of an attempt, which may quote the
-- value. If the deadline has passed and is not recorded yet, the function first records it, as the sweep does.
--
-- Arguments: the tenant's slug, and the promise's id or, if that is NULL, its idempotency key.
-- Returns: the promise after the call. A pending promise, and one that was erased before, are returned unchanged. NULL if the tenant has
-- no such promise.
--
-- SECURITY DEFINER: no role but the owner may update erased_at or metadata.
--
-- Locks: the promise's row, then its deliveries'. If there is a deadline to record, the workflow execution's row before that, behind running settlements. If one
-- of them settled the promise or moved the deadline, the function raises promise_race_lost: everything is rolled back, and the caller retries.
--
-- Indexes: promise_pkey, idempotency_key_pkey, workflow_execution_pkey, delivery_promise_id_target_key.
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
    IF FOUND AND promise_row.notifies THEN
        UPDATE delivery
        SET last_error = NULL, due_at = NULL, lease = NULL,
            state = CASE WHEN state IN ('due', 'dead') THEN 'gone' ELSE state END,
            ended_at = CASE WHEN state IN ('due', 'dead') THEN CLOCK_TIMESTAMP() ELSE ended_at END,
            end_reason = CASE WHEN state IN ('due', 'dead') THEN 'The promise was deleted.' ELSE end_reason END
        WHERE promise_id = target_id;
    END IF;
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
-- Deletes one batch of the rows of a tenant that is marked by deleted_at, and finally the tenant. Concurrent calls delete different rows.
-- A tenant is suspended while it is marked, so no other call sees it half deleted.
--
-- Order: no more than batch event rows and promises together, and the keys of those promises; then the executions that have become empty; once
-- no execution is left, no more than batch other keys; with the last of them, all API keys, all destinations and the tenant. The deliveries of a
-- promise are deleted with it, and so are the secrets of a destination.
--
-- Returns: the counts of deleted rows. done is TRUE after the last batch, and NULL if no tenant of that slug is marked.
--
-- SECURITY DEFINER: its caller may read no promise.
--
-- Locks: the workflow executions' rows and the promises', skipping locked ones, then their deliveries', then the keys', then the tenant's. A create that began before
-- the suspension may commit while the last batch runs: then the batch fails on workflow_execution's foreign key.
--
-- Indexes: idx_workflow_execution_tenant, workflow_event_row_pkey, idx_promise_workflow, promise_pkey, delivery_promise_id_target_key, idx_idempotency_key_promise,
-- idempotency_key_pkey, idx_api_key_tenant.
CREATE OR REPLACE FUNCTION tenant_delete(
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
    PERFORM FROM delivery v WHERE v.promise_id = ANY (ids) ORDER BY v.promise_id, v.target FOR UPDATE; -- as the relay's record locks them
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
    DELETE FROM destination d WHERE d.tenant_id = doomed;
    DELETE FROM tenant t WHERE t.id = doomed;
    done := FOUND;
    IF NOT done THEN -- another call has just deleted the last batch
        done := TRUE;
        RETURN;
    END IF;
    INSERT INTO deleted_tenant AS d (slug, tenant_id, deleted_at) VALUES (tenant_slug, doomed, CLOCK_TIMESTAMP())
    ON CONFLICT (slug) DO UPDATE SET tenant_id = EXCLUDED.tenant_id, deleted_at = EXCLUDED.deleted_at;
END $$;

-- The function searches the schema of the tables, and pg_temp last: otherwise a temporary table of its caller would come first.
DO $$
BEGIN
    EXECUTE format('ALTER FUNCTION tenant_delete(VARCHAR, INT) SET search_path = %I, pg_temp', current_schema());
END $$;
REVOKE ALL ON FUNCTION tenant_delete(VARCHAR, INT) FROM PUBLIC;
-- +goose StatementEnd
