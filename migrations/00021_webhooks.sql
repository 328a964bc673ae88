-- Inbound webhooks: sources that verify them, receipts of what became of them, and the bodies that are kept for a replay.
--
-- A settlement by a webhook, and the early settlement that waits for a promise, are written with their receipt in one transaction: see
-- receipt_settle. idempotency_key.held_receipt_id links an early settlement to its receipt, which ends with it.
--
-- The functions of the previous release work on this schema. If one of them replaces the early settlement of a webhook, or lets it expire, its
-- receipt stays held until the sweep deletes it.
--
-- Locks idempotency_key against all others and tenant against writers, for a moment and without reading them, or gives up after a second for each.

-- +goose Up
SET LOCAL lock_timeout = '1s';
LOCK TABLE tenant IN SHARE ROW EXCLUSIVE MODE;
LOCK TABLE idempotency_key IN ACCESS EXCLUSIVE MODE;

-- A sender of webhooks. definition is JSON: see promise.SourceDefinition. Each change of the source or its secrets adds 1 to version. held_full: it has
-- as many settlements that wait for a promise as it may have; the sweep refreshes it. The last four columns are written at most once a minute.
CREATE TABLE source (
    id UUID PRIMARY KEY,
    tenant_id UUID NOT NULL REFERENCES tenant (id),
    name VARCHAR(40) NOT NULL,
    version INT NOT NULL DEFAULT 1,
    definition TEXT NOT NULL,
    enabled BOOLEAN NOT NULL DEFAULT TRUE,
    held_full BOOLEAN NOT NULL DEFAULT FALSE,
    created_at TIMESTAMPTZ NOT NULL DEFAULT NOW(),
    updated_at TIMESTAMPTZ NOT NULL DEFAULT NOW(),
    last_received_at TIMESTAMPTZ,
    last_verified_at TIMESTAMPTZ,
    last_refused_at TIMESTAMPTZ,
    last_refusal VARCHAR(200),
    UNIQUE (tenant_id, name)
);
CREATE INDEX idx_source_verified ON source (last_verified_at) WHERE last_verified_at IS NOT NULL;
CREATE INDEX idx_source_held_full ON source (id) WHERE held_full;

-- The secrets that verify the requests to a source, encrypted: see shared/seal, with the purpose 'source_secret.sealed' and the source's id as the
-- row. The newest version verifies, and so does the one before until its retire_at.
CREATE TABLE source_secret (
    source_id UUID NOT NULL REFERENCES source (id) ON DELETE CASCADE,
    version INT NOT NULL,
    sealed BYTEA NOT NULL,
    created_at TIMESTAMPTZ NOT NULL DEFAULT NOW(),
    retire_at TIMESTAMPTZ,
    PRIMARY KEY (source_id, version),
    CONSTRAINT source_secret_sealed CHECK (OCTET_LENGTH(sealed) BETWEEN 37 AND 4096 AND GET_BYTE(sealed, 0) = 1)
);
CREATE INDEX idx_source_secret_key ON source_secret (SUBSTRING(sealed FROM 1 FOR 9)); -- the id of the sealing key
CREATE INDEX idx_source_secret_retire ON source_secret (retire_at) WHERE retire_at IS NOT NULL;

-- A receipt records what became of a webhook, or of one item of it. It outlives its source and its promise: a later source of the same name answers the same event
-- from it.
CREATE TABLE receipt (
    id UUID PRIMARY KEY,
    tenant_id UUID NOT NULL,
    source_id UUID NOT NULL,
    source_name VARCHAR(40) NOT NULL,
    event VARCHAR(255) NOT NULL,
    item INT NOT NULL,
    rule VARCHAR(100),
    key VARCHAR(255),
    outcome VARCHAR(16) NOT NULL,
    promise_id UUID,
    reason VARCHAR(500),
    received_at TIMESTAMPTZ NOT NULL,
    updated_at TIMESTAMPTZ NOT NULL,
    expires_at TIMESTAMPTZ NOT NULL,
    UNIQUE (tenant_id, source_name, event, item),
    CONSTRAINT receipt_outcome_known CHECK (
        outcome IN ('settled', 'duplicate', 'conflict', 'timed_out', 'cancelled', 'held', 'expired', 'not_found', 'ignored', 'rule_failed')
    )
);
CREATE INDEX idx_receipt_source ON receipt (tenant_id, source_name, outcome, received_at, id);
CREATE INDEX idx_receipt_outcome ON receipt (tenant_id, outcome, received_at, id);
CREATE INDEX idx_receipt_key ON receipt (tenant_id, key, received_at, id) WHERE key IS NOT NULL;
CREATE INDEX idx_receipt_promise ON receipt (promise_id, received_at, id) WHERE promise_id IS NOT NULL;
CREATE INDEX idx_receipt_held ON receipt (source_id) WHERE outcome = 'held';
CREATE INDEX idx_receipt_expires ON receipt (expires_at);

-- A request that is kept for a replay, encrypted: see shared/seal, with the purpose 'receipt_body.sealed' and the id as the row.
CREATE TABLE receipt_body (
    id UUID PRIMARY KEY,
    receipt_id UUID NOT NULL UNIQUE REFERENCES receipt (id) ON DELETE CASCADE,
    sealed BYTEA NOT NULL,
    expires_at TIMESTAMPTZ NOT NULL,
    CONSTRAINT receipt_body_sealed CHECK (OCTET_LENGTH(sealed) >= 37 AND GET_BYTE(sealed, 0) = 1)
);
CREATE INDEX idx_receipt_body_key ON receipt_body (SUBSTRING(sealed FROM 1 FOR 9)); -- the id of the sealing key
CREATE INDEX idx_receipt_body_expires ON receipt_body (expires_at);

ALTER TABLE idempotency_key ADD COLUMN held_receipt_id UUID; -- with held_by_kind = 'webhook': the receipt of the early settlement

-- The functions of the previous release create promises as promises_app, through the new function, which needs this column. The grants in access/
-- come after the last file, and not at all if a later file fails.
-- +goose StatementBegin
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'promises_app') THEN
        GRANT UPDATE (held_receipt_id) ON idempotency_key TO promises_app;
    END IF;
END $$;
-- +goose StatementEnd

CREATE TYPE early_result AS (
    expires_at TIMESTAMPTZ, stored BOOLEAN, same BOOLEAN, expired_unused BOOLEAN, holder_id UUID, uncertain BOOLEAN, workflow_execution_id UUID,
    is_full BOOLEAN, receipt_id UUID
);
CREATE TYPE receipt_result AS (
    receipt_id UUID, outcome VARCHAR, promise_id UUID, repeated BOOLEAN, key VARCHAR, reason VARCHAR
);

-- From here on: copies of files in migrations/functions. Edit those, and repeat `go run ./migrations/snapshot NAME`.

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
--   lost_hold        TRUE if an early settlement under the key was discarded, because it arrived after the deadline or had expired. The early
--                    settlement of a webhook does not count: its receipt records it.
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
-- Locks: the workflow execution's row, then the promise's, then the key's, then the receipts' of an early settlement, then those of delivery_create. The rows are first read without a lock. If another create commits in
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
            CASE WHEN k.held_by_kind = 'webhook' THEN k.held_receipt_id END AS receipt_id,
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
        early_expired := found_rows.has_early AND NOT found_rows.early_settles AND found_rows.receipt_id IS NULL;
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
                held_by_id = NULL, held_comment = NULL, held_receipt_id = NULL
            WHERE (k.expires_at, k.promise_id, k.held_at)
                IS NOT DISTINCT FROM (key_as_read.expires_at, key_as_read.promise_id, key_as_read.held_at);
        IF NOT FOUND THEN
            PERFORM promise_race_lost(promise_row.id);
        END IF;
    END IF;

    IF key_as_read.held_at IS NOT NULL THEN
        IF NOT receipt_end( -- an IF of its own, because an expression needs the right to each of its functions
            key_as_read.tenant_id, new_key,
            CASE WHEN early_settlement.held_by_kind = 'webhook' THEN early_settlement.held_receipt_id END,
            CASE WHEN early_settlement.held_at IS NULL THEN 'expired' ELSE 'settled' END,
            CASE WHEN early_settlement.held_at IS NOT NULL THEN promise_row.id END,
            CASE WHEN early_settlement.held_at IS NOT NULL THEN moment + key_ttl END
        ) THEN
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
-- value. The bodies of its webhooks are deleted. If the deadline has passed and is not recorded yet, the function first records it, as the sweep does.
--
-- Arguments: the tenant's slug, and the promise's id or, if that is NULL, its idempotency key.
-- Returns: the promise after the call. A pending promise, and one that was erased before, are returned unchanged. NULL if the tenant has
-- no such promise.
--
-- SECURITY DEFINER: no role but the owner may update erased_at or metadata.
--
-- Locks: the promise's row, then its deliveries', then the bodies' of its webhooks. If there is a deadline to record, the workflow execution's row before that, behind running settlements. If one
-- of them settled the promise or moved the deadline, the function raises promise_race_lost: everything is rolled back, and the caller retries.
--
-- Indexes: promise_pkey, idempotency_key_pkey, workflow_execution_pkey, delivery_promise_id_target_key, idx_receipt_promise,
-- receipt_body_receipt_id_key.
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
    IF promise_row.erased_at IS NOT NULL THEN
        DELETE FROM receipt_body b USING receipt r WHERE r.promise_id = target_id AND b.receipt_id = r.id;
    END IF;
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
-- Stores an early settlement under an idempotency key, for the promise that will be created with it.
--
-- Arguments:
--   tenant_slug, given_key  the tenant and the key
--   ttl                     how long the settlement is stored
--   new_outcome             'resolved' or 'rejected'
--   new_value, new_error    the settlement's value, or its error; the other is NULL
--   new_kind, new_by        the kind and the id of the caller; the id may be NULL
--   new_comment             a comment, or NULL
--   settlements_awaited     TRUE if the caller has called promise_await_settlements for the promise of the key
--   new_receipt             the receipt of the webhook that settles, or NULL
--   may_store               FALSE if the caller's own limit forbids another early settlement
--
-- Returns NULL if the tenant is unknown or suspended. Otherwise:
--   expires_at             the end of the early settlement that the key has after the call
--   stored                 TRUE if this call stored it
--   same                   TRUE if the key already had an equal one
--   expired_unused         TRUE if this call replaced an expired one that no receipt records
--   holder_id              a promise that answers the call; expires_at is then NULL. The key belongs to it, or names it and it was settled with the
--                          same bytes.
--   uncertain, workflow_execution_id  as in add_idempotency_key.sql
--   is_full                TRUE if the limit of early settlements is reached
--   receipt_id             the receipt of the early settlement that the key has after the call
-- If expires_at and holder_id are NULL, nothing was stored: with is_full because of the limit, otherwise because another call came first, and the
-- caller retries.
--
-- Locks: the key's row, then the receipts' of an expired early settlement. The settlement is stored only if the key's row is still as it was read.
--
-- Indexes: idempotency_key_pkey, promise_pkey, idx_receipt_key.
CREATE OR REPLACE FUNCTION promise_settle_early(
    tenant_slug VARCHAR, given_key VARCHAR, ttl INTERVAL, new_outcome VARCHAR, new_value BYTEA, new_error TEXT,
    new_kind VARCHAR, new_by VARCHAR, new_comment VARCHAR, settlements_awaited BOOLEAN, new_receipt UUID, may_store BOOLEAN
) RETURNS early_result LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
    result early_result;
    of_tenant UUID;
    replaced BOOLEAN; -- this call replaced an expired early settlement
BEGIN
    WITH seen AS MATERIALIZED (
        SELECT
            k.promise_id, k.expires_at, k.held_at, COALESCE(k.held_until, k.expires_at) AS held_until,
            k.held_at IS NOT NULL AND COALESCE(k.held_until, k.expires_at) > NOW() AS has_early,
            q.id IS NOT NULL AND (
                promise_key_live(k.expires_at, q.resolved, q.timeout_at, NOW())
                OR promise_key_names(k.expires_at, q.resolved, q.resolved_at, q.timeout_at, NOW())
                    AND q.settled_by_kind IS DISTINCT FROM 'deadline' AND q.outcome IS NOT DISTINCT FROM new_outcome
                    AND q.value IS NOT DISTINCT FROM new_value AND q.error IS NOT DISTINCT FROM new_error
            ) AS answers,
            COALESCE(promise_key_uncertain(k.expires_at, q.resolved, q.timeout_at, NOW()) AND NOT settlements_awaited, FALSE) AS uncertain,
            q.workflow_execution_id,
            k.held_outcome = new_outcome AND k.held_value IS NOT DISTINCT FROM new_value AND k.held_error IS NOT DISTINCT FROM new_error AS same,
            CASE WHEN k.held_by_kind = 'webhook' THEN k.held_receipt_id END AS receipt_id
        FROM tenant t
        JOIN idempotency_key k ON k.tenant_id = t.id AND k.key = given_key
        LEFT JOIN promise q ON q.id = k.promise_id
        WHERE t.slug = tenant_slug AND t.suspended_at IS NULL
    ),
    stored AS (
        INSERT INTO idempotency_key AS k (tenant_id, key, expires_at, check_at, held_until, held_at, held_outcome, held_value,
                                          held_error, held_by_kind, held_by_id, held_comment, held_receipt_id)
        SELECT t.id, given_key, NOW() + ttl, NOW() + ttl, NOW() + ttl, NOW(), new_outcome, new_value, new_error, new_kind, new_by, new_comment,
               new_receipt
        FROM tenant t
        WHERE t.slug = tenant_slug AND t.suspended_at IS NULL AND NOT t.held_full AND may_store
          AND NOT EXISTS (SELECT FROM seen WHERE has_early OR answers OR uncertain)
        ON CONFLICT (tenant_id, key) DO UPDATE
            SET expires_at = CASE WHEN k.promise_id IS NULL THEN EXCLUDED.expires_at ELSE k.expires_at END,
                check_at = CASE WHEN k.promise_id IS NULL THEN EXCLUDED.check_at ELSE LEAST(k.check_at, EXCLUDED.check_at) END,
                held_until = EXCLUDED.held_until, held_at = EXCLUDED.held_at, held_outcome = EXCLUDED.held_outcome,
                held_value = EXCLUDED.held_value, held_error = EXCLUDED.held_error, held_by_kind = EXCLUDED.held_by_kind,
                held_by_id = EXCLUDED.held_by_id, held_comment = EXCLUDED.held_comment, held_receipt_id = EXCLUDED.held_receipt_id
            WHERE EXISTS (
                SELECT FROM seen
                WHERE (seen.expires_at, seen.promise_id, seen.held_at) IS NOT DISTINCT FROM (k.expires_at, k.promise_id, k.held_at)
            )
        RETURNING k.held_until
    )
    SELECT
        COALESCE(stored.held_until, CASE WHEN seen.has_early AND NOT seen.answers THEN seen.held_until END),
        stored.held_until IS NOT NULL,
        COALESCE(seen.same, FALSE),
        stored.held_until IS NOT NULL AND EXISTS (SELECT FROM seen WHERE held_at IS NOT NULL AND receipt_id IS NULL),
        CASE WHEN seen.answers THEN seen.promise_id END,
        COALESCE(seen.uncertain, FALSE),
        seen.workflow_execution_id,
        t.held_full OR NOT may_store,
        CASE WHEN stored.held_until IS NOT NULL THEN new_receipt ELSE seen.receipt_id END,
        t.id,
        stored.held_until IS NOT NULL AND EXISTS (SELECT FROM seen WHERE held_at IS NOT NULL)
    INTO
        result.expires_at, result.stored, result.same, result.expired_unused, result.holder_id, result.uncertain, result.workflow_execution_id,
        result.is_full, result.receipt_id, of_tenant, replaced
    FROM tenant t
    LEFT JOIN stored ON TRUE
    LEFT JOIN seen ON seen.has_early OR seen.answers OR seen.uncertain
    WHERE t.slug = tenant_slug AND t.suspended_at IS NULL;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    IF replaced THEN
        PERFORM receipt_end(of_tenant, given_key, new_receipt, 'expired', NULL, NULL);
    END IF;
    RETURN result;
END $$;
-- +goose StatementEnd

-- +goose StatementBegin
-- Records on receipts how the early settlement of an idempotency key ended. These are the receipt of the webhook that made it, and those of other
-- webhooks that were compared with it: their events were duplicates of it, or conflicts with it.
--
-- Arguments:
--   of_tenant, given_key  the key
--   given_receipt         if new_outcome is 'settled', the receipt of the early settlement, or NULL if no webhook made it. Otherwise a receipt that
--                         the caller itself writes, or NULL.
--   new_outcome           'settled': the early settlement settled a promise. 'expired': it was discarded unused.
--   of_promise            the promise that it settled, or NULL
--   key_until             when that promise's key expires, or NULL
--
-- If the early settlement settled a promise, the compared receipts keep their outcomes and get the promise. They stay longer than the key names the
-- promise, so that no event of theirs settles another promise. If it expired unused, they expire with it, and their events are judged anew.
--
-- Returns: FALSE if the event of given_receipt was settled or held otherwise in the moment in which its early settlement expired: the caller must
-- not use that, and rolls back.
--
-- SECURITY DEFINER: a caller that creates a promise needs no right to a receipt.
--
-- Locks: the receipts' rows. The caller has locked the key's row.
-- Indexes: idx_receipt_key, receipt_pkey.
CREATE OR REPLACE FUNCTION receipt_end(
    of_tenant UUID, given_key VARCHAR, given_receipt UUID, new_outcome VARCHAR, of_promise UUID, key_until TIMESTAMPTZ
) RETURNS BOOLEAN LANGUAGE plpgsql SECURITY DEFINER AS $$
#variable_conflict use_variable
BEGIN
    UPDATE receipt r
    SET outcome = CASE WHEN new_outcome = 'expired' OR r.outcome = 'held' THEN new_outcome ELSE r.outcome END, promise_id = of_promise,
        updated_at = CLOCK_TIMESTAMP(),
        expires_at = GREATEST(r.expires_at, key_until + INTERVAL '192 hours', CLOCK_TIMESTAMP() + INTERVAL '192 hours')
    WHERE r.tenant_id = of_tenant AND r.key = given_key AND r.promise_id IS NULL AND r.outcome IN ('held', 'duplicate', 'conflict')
      AND CASE new_outcome WHEN 'settled' THEN r.outcome <> 'held' OR r.id = given_receipt ELSE r.id IS DISTINCT FROM given_receipt END;
    RETURN new_outcome <> 'settled'
        OR NOT EXISTS (SELECT FROM receipt r WHERE r.id = given_receipt AND r.promise_id IS DISTINCT FROM of_promise);
END $$;

-- The function searches the schema of the tables, and pg_temp last: otherwise a temporary table of its caller would come first. The functions of the
-- previous release create promises as promises_app, and the grants in access/ come after the last file.
DO $$
BEGIN
    EXECUTE format('ALTER FUNCTION receipt_end(UUID, VARCHAR, UUID, VARCHAR, UUID, TIMESTAMPTZ) SET search_path = %I, pg_temp', current_schema());
    REVOKE ALL ON FUNCTION receipt_end(UUID, VARCHAR, UUID, VARCHAR, UUID, TIMESTAMPTZ) FROM PUBLIC;
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'promises_app') THEN
        GRANT EXECUTE ON FUNCTION receipt_end(UUID, VARCHAR, UUID, VARCHAR, UUID, TIMESTAMPTZ) TO promises_app;
    END IF;
END $$;
-- +goose StatementEnd

-- +goose StatementBegin
-- Reports whether the same event is answered with a receipt's outcome again.
CREATE OR REPLACE FUNCTION receipt_is_final(outcome VARCHAR) RETURNS BOOLEAN LANGUAGE sql IMMUTABLE AS $$
    SELECT outcome IN ('settled', 'duplicate', 'conflict', 'timed_out', 'cancelled')
$$;
-- +goose StatementEnd

-- +goose StatementBegin
-- Foresees what receipt_settle would do, and writes nothing. A concurrent call, or a deadline that is not recorded yet, may change the outcome.
--
-- Arguments: as those of receipt_settle of the same names.
--
-- Returns: NULL if the tenant is unknown or suspended, or has no such source. Otherwise the result that receipt_settle would return. receipt_id is
-- NULL if the event has no receipt yet.
--
-- SECURITY DEFINER: a caller needs no right to a promise.
--
-- Locks: none.
--
-- Indexes: source_pkey, tenant_pkey, receipt_tenant_id_source_name_event_item_key, idempotency_key_pkey, promise_pkey.
CREATE OR REPLACE FUNCTION receipt_preview(
    tenant_slug VARCHAR, of_source UUID, given_event VARCHAR, given_item INT, new_key VARCHAR, new_outcome VARCHAR, new_value BYTEA,
    new_error TEXT, hold INTERVAL
) RETURNS receipt_result LANGUAGE plpgsql STABLE SECURITY DEFINER AS $$
#variable_conflict use_variable
DECLARE
    source_row source;
    tenant_full BOOLEAN;
    former receipt;
    still_waits BOOLEAN := FALSE; -- the event's early settlement waits for its promise
    key_row idempotency_key;
    promise_row promise;
    state VARCHAR;
    outcome VARCHAR;
BEGIN
    SELECT s.* INTO source_row
    FROM source s
    JOIN tenant t ON t.id = s.tenant_id
    WHERE s.id = of_source AND t.slug = tenant_slug AND t.suspended_at IS NULL;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    SELECT t.held_full INTO tenant_full FROM tenant t WHERE t.id = source_row.tenant_id;
    SELECT r.* INTO former
    FROM receipt r
    WHERE r.tenant_id = source_row.tenant_id AND r.source_name = source_row.name AND r.event = given_event AND r.item = given_item;
    IF former.outcome = 'held' THEN
        still_waits := EXISTS (
            SELECT FROM idempotency_key k
            WHERE k.tenant_id = source_row.tenant_id AND k.key = former.key AND k.held_by_kind = 'webhook' AND k.held_receipt_id = former.id
              AND COALESCE(k.held_until, k.expires_at) > NOW()
        );
    END IF;
    IF receipt_is_final(former.outcome) OR still_waits THEN
        IF given_event LIKE 'sha256:%' AND new_outcome IN ('resolved', 'rejected') AND former.key IS DISTINCT FROM new_key THEN
            RETURN (former.id, 'other_key', NULL, FALSE, former.key, NULL)::receipt_result;
        END IF;
        RETURN (former.id, former.outcome, former.promise_id, TRUE, former.key, former.reason)::receipt_result;
    END IF;
    IF new_outcome NOT IN ('resolved', 'rejected') THEN
        RETURN (former.id, new_outcome, NULL, FALSE, new_key, NULL)::receipt_result;
    END IF;

    SELECT k.* INTO key_row FROM idempotency_key k WHERE k.tenant_id = source_row.tenant_id AND k.key = new_key;
    SELECT p.* INTO promise_row
    FROM promise p
    WHERE p.id = key_row.promise_id AND promise_key_names(key_row.expires_at, p.resolved, p.resolved_at, p.timeout_at, NOW());
    IF promise_row.id IS NULL THEN
        outcome := 'not_found';
    ELSIF NOT promise_row.resolved THEN
        outcome := CASE WHEN promise_row.timeout_at <= NOW() THEN 'timed_out' ELSE 'settled' END;
    ELSE
        outcome := CASE
            WHEN promise_by_deadline(promise_row.outcome, promise_row.settled_by_kind) OR promise_row.outcome = 'timed_out' THEN 'timed_out'
            WHEN promise_row.erased_at IS NULL AND promise_row.outcome = new_outcome AND promise_row.value IS NOT DISTINCT FROM new_value
                AND promise_row.error IS NOT DISTINCT FROM new_error THEN 'duplicate'
            WHEN promise_row.outcome = 'cancelled' THEN 'cancelled'
            ELSE 'conflict'
        END;
    END IF;
    IF hold IS NOT NULL AND outcome NOT IN ('settled', 'duplicate')
        AND (promise_row.id IS NULL OR NOT promise_key_live(key_row.expires_at, promise_row.resolved, promise_row.timeout_at, NOW()))
    THEN
        promise_row := NULL;
        outcome := CASE
            WHEN key_row.held_at IS NULL OR COALESCE(key_row.held_until, key_row.expires_at) <= NOW() THEN
                CASE WHEN source_row.held_full THEN 'source_full' WHEN tenant_full THEN 'tenant_full' ELSE 'held' END
            WHEN key_row.held_outcome = new_outcome AND key_row.held_value IS NOT DISTINCT FROM new_value
                AND key_row.held_error IS NOT DISTINCT FROM new_error THEN 'duplicate'
            ELSE 'conflict'
        END;
    END IF;
    RETURN (former.id, outcome, promise_row.id, FALSE, new_key, NULL)::receipt_result;
END $$;

-- The function searches the schema of the tables, and pg_temp last: otherwise a temporary table of its caller would come first.
DO $$
BEGIN
    EXECUTE format(
        'ALTER FUNCTION receipt_preview(VARCHAR, UUID, VARCHAR, INT, VARCHAR, VARCHAR, BYTEA, TEXT, INTERVAL) SET search_path = %I, pg_temp',
        current_schema()
    );
END $$;
REVOKE ALL ON FUNCTION receipt_preview(VARCHAR, UUID, VARCHAR, INT, VARCHAR, VARCHAR, BYTEA, TEXT, INTERVAL) FROM PUBLIC;
-- +goose StatementEnd

-- +goose StatementBegin
-- Settles a promise by a webhook, or stores the settlement for a promise to come, and records the receipt. Both happen in one transaction.
--
-- Arguments:
--   tenant_slug, of_source   the tenant and the source's id
--   given_event, given_item  what identifies the event: 'id:' and an id that its sender signed, or 'sha256:' and the digest of the signed bytes;
--                            and the number of earlier equal events of the same request
--   new_id                   the id of a new receipt
--   known_promise            the promise that the key named before a lost race, or NULL
--   new_rule, new_key        the rule that matched and the key that it made, or NULL
--   new_outcome              'resolved' or 'rejected' to settle the promise of the key; 'ignored' or 'rule_failed' to record just that
--   new_value, new_error     the settlement's value, or its error; the other is NULL
--   hold                     how long the settlement is stored if the key has no promise, or NULL: not at all
--   new_reason               a text for the receipt, or NULL
--   body_id, new_body        the id of the kept body, and the body, sealed; or NULL. A body that the receipt has already stays. The
--                            function keeps no body for an erased promise.
--
-- Returns NULL if the tenant is unknown or suspended, or has no such source. Otherwise:
--   receipt_id  the receipt
--   outcome     its outcome: see promise.ReceiptOutcome. Three others mean that nothing was written. 'source_full' and 'tenant_full': the limit of
--               early settlements is reached. 'other_key': the same signed bytes have made another key, so what is not signed has changed.
--   promise_id  the promise of the key, or NULL
--   repeated    TRUE if the receipt answered the call. Then nothing was written.
--   key, reason the receipt's
--
-- An event that is compared with another early settlement shares its fate: see receipt_end.
--
-- A final receipt answers every later call of its event, and so does a receipt whose early settlement still waits. Any other outcome is judged anew.
-- If another call has settled or held the event meanwhile, the function raises promise_race_lost, everything is rolled back, and the caller retries.
-- So one event settles at most once.
--
-- A receipt stays a day longer than its key can name the promise, or hold the early settlement. So the same event never settles another promise.
--
-- SECURITY DEFINER: a caller needs no right to a promise.
--
-- Locks: those of promise_settle, then the key's row, then the receipt's.
--
-- Indexes: source_pkey, tenant_pkey, receipt_tenant_id_source_name_event_item_key, idempotency_key_pkey, receipt_body_receipt_id_key, and those of
-- promise_settle.
CREATE OR REPLACE FUNCTION receipt_settle(
    tenant_slug VARCHAR, of_source UUID, given_event VARCHAR, given_item INT, new_id UUID, known_promise UUID,
    new_rule VARCHAR, new_key VARCHAR, new_outcome VARCHAR, new_value BYTEA, new_error TEXT, hold INTERVAL, new_reason VARCHAR,
    body_id UUID, new_body BYTEA
) RETURNS receipt_result LANGUAGE plpgsql SECURITY DEFINER AS $$
#variable_conflict use_variable
DECLARE
    source_row source;
    former receipt; -- the receipt as it was read; of NULLs if there was none
    still_waits BOOLEAN := FALSE; -- the event's early settlement waits for its promise
    receipt_id UUID;
    outcome VARCHAR := new_outcome;
    settlement settle_result;
    early early_result;
    settlements_awaited BOOLEAN := FALSE;
    of_promise UUID;
    key_until TIMESTAMPTZ;
BEGIN
    SELECT s.* INTO source_row
    FROM source s
    JOIN tenant t ON t.id = s.tenant_id
    WHERE s.id = of_source AND t.slug = tenant_slug AND t.suspended_at IS NULL;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    SELECT r.* INTO former
    FROM receipt r
    WHERE r.tenant_id = source_row.tenant_id AND r.source_name = source_row.name AND r.event = given_event AND r.item = given_item;
    IF former.outcome = 'held' THEN
        still_waits := EXISTS (
            SELECT FROM idempotency_key k
            WHERE k.tenant_id = source_row.tenant_id AND k.key = former.key AND k.held_by_kind = 'webhook' AND k.held_receipt_id = former.id
              AND COALESCE(k.held_until, k.expires_at) > NOW()
        );
    END IF;
    IF receipt_is_final(former.outcome) OR still_waits THEN
        IF given_event LIKE 'sha256:%' AND new_outcome IN ('resolved', 'rejected') AND former.key IS DISTINCT FROM new_key THEN
            RETURN (former.id, 'other_key', NULL, FALSE, former.key, NULL)::receipt_result;
        END IF;
        RETURN (former.id, former.outcome, former.promise_id, TRUE, former.key, former.reason)::receipt_result;
    END IF;
    receipt_id := COALESCE(former.id, new_id);

    IF new_outcome IN ('resolved', 'rejected') THEN
        settlement := promise_settle(
            tenant_slug, known_promise, CASE WHEN known_promise IS NULL THEN new_key END, new_outcome, new_value, new_error,
            'webhook', source_row.name, NULL
        );
        of_promise := settlement.promise_id;
        outcome := CASE
            WHEN of_promise IS NULL THEN 'not_found'
            WHEN settlement.settled THEN 'settled'
            WHEN settlement.by_deadline OR settlement.state = 'timed_out' THEN 'timed_out'
            WHEN settlement.same THEN 'duplicate'
            WHEN settlement.state = 'cancelled' THEN 'cancelled'
            ELSE 'conflict'
        END;
        IF hold IS NOT NULL AND outcome NOT IN ('settled', 'duplicate') THEN
            LOOP
                early := promise_settle_early(
                    tenant_slug, new_key, hold, new_outcome, new_value, new_error, 'webhook', source_row.name, NULL,
                    settlements_awaited, receipt_id, NOT source_row.held_full
                );
                EXIT WHEN early.uncertain IS NOT TRUE;
                PERFORM promise_await_settlements(ARRAY[NULL]::UUID[], ARRAY[early.workflow_execution_id]);
                settlements_awaited := TRUE;
            END LOOP;
            IF early.holder_id = of_promise THEN
                NULL; -- the key has not expired: its promise answers
            ELSIF early.expires_at IS NULL AND early.holder_id IS NULL AND early.is_full THEN
                RETURN (NULL, CASE WHEN source_row.held_full THEN 'source_full' ELSE 'tenant_full' END, NULL, FALSE, NULL, NULL)::receipt_result;
            ELSIF early.expires_at IS NULL THEN
                RAISE EXCEPTION 'another transaction came first' USING ERRCODE = 'PR001';
            ELSE
                of_promise := NULL;
                outcome := CASE
                    WHEN early.receipt_id = receipt_id THEN 'held'
                    WHEN early.same THEN 'duplicate'
                    ELSE 'conflict'
                END;
                IF outcome <> 'held' THEN -- the receipt ends with the early settlement, so the key's lock keeps that until the receipt is written
                    PERFORM FROM idempotency_key k
                    WHERE k.tenant_id = source_row.tenant_id AND k.key = new_key AND k.held_at IS NOT NULL
                      AND COALESCE(k.held_until, k.expires_at) = early.expires_at
                    FOR SHARE;
                    IF NOT FOUND THEN
                        RAISE EXCEPTION 'another transaction came first' USING ERRCODE = 'PR001';
                    END IF;
                END IF;
            END IF;
        END IF;
        SELECT GREATEST(k.expires_at, k.held_until) INTO key_until FROM idempotency_key k WHERE k.tenant_id = source_row.tenant_id AND k.key = new_key;
    END IF;

    IF former.id IS NULL THEN
        INSERT INTO receipt (
            id, tenant_id, source_id, source_name, event, item, rule, key, outcome, promise_id, reason, received_at, updated_at, expires_at
        )
        VALUES (
            new_id, source_row.tenant_id, of_source, source_row.name, given_event, given_item, new_rule, new_key, outcome, of_promise,
            new_reason, CLOCK_TIMESTAMP(), CLOCK_TIMESTAMP(), GREATEST(key_until, CLOCK_TIMESTAMP()) + INTERVAL '192 hours'
        )
        ON CONFLICT (tenant_id, source_name, event, item) DO NOTHING;
    ELSE
        UPDATE receipt r
        SET source_id = of_source, rule = new_rule, key = new_key, outcome = outcome, promise_id = of_promise, reason = new_reason,
            updated_at = CLOCK_TIMESTAMP(),
            expires_at = GREATEST(r.expires_at, GREATEST(key_until, CLOCK_TIMESTAMP()) + INTERVAL '192 hours')
        WHERE r.id = former.id AND (
            (r.outcome, r.updated_at) IS NOT DISTINCT FROM (former.outcome, former.updated_at)
            OR outcome IN ('not_found', 'ignored', 'rule_failed') AND r.outcome <> 'held' AND NOT receipt_is_final(r.outcome)
        );
    END IF;
    IF NOT FOUND THEN -- another call has judged the event meanwhile
        RAISE EXCEPTION 'another transaction came first' USING ERRCODE = 'PR001';
    END IF;
    IF new_body IS NOT NULL AND NOT EXISTS (SELECT FROM promise p WHERE p.id = of_promise AND p.erased_at IS NOT NULL) THEN
        INSERT INTO receipt_body AS b (id, receipt_id, sealed, expires_at)
        VALUES (body_id, receipt_id, new_body, CLOCK_TIMESTAMP() + INTERVAL '168 hours')
        ON CONFLICT ON CONSTRAINT receipt_body_receipt_id_key DO UPDATE
            SET id = EXCLUDED.id, sealed = EXCLUDED.sealed, expires_at = EXCLUDED.expires_at
            WHERE b.expires_at <= NOW();
    END IF;
    RETURN (receipt_id, outcome, of_promise, FALSE, new_key, new_reason)::receipt_result;
END $$;

-- The function searches the schema of the tables, and pg_temp last: otherwise a temporary table of its caller would come first.
DO $$
BEGIN
    EXECUTE format(
        'ALTER FUNCTION receipt_settle(VARCHAR, UUID, VARCHAR, INT, UUID, UUID, VARCHAR, VARCHAR, VARCHAR, BYTEA, TEXT, INTERVAL, VARCHAR, UUID, BYTEA) '
        'SET search_path = %I, pg_temp', current_schema()
    );
END $$;
REVOKE ALL ON FUNCTION receipt_settle(VARCHAR, UUID, VARCHAR, INT, UUID, UUID, VARCHAR, VARCHAR, VARCHAR, BYTEA, TEXT, INTERVAL, VARCHAR, UUID, BYTEA)
    FROM PUBLIC;
-- +goose StatementEnd

-- +goose StatementBegin
-- Deletes one batch of the rows of a tenant that is marked by deleted_at, and finally the tenant. Concurrent calls delete different rows.
-- A tenant is suspended while it is marked, so no other call sees it half deleted.
--
-- Order: no more than batch event rows and promises together, and the keys of those promises; then the executions that have become empty; once
-- no execution is left, no more than batch other keys, and then as many receipts; with the last of them, all API keys,
-- all destinations, all sources and the tenant. The deliveries of a
-- promise are deleted with it, and so are the secrets of a destination and of a source.
--
-- Returns: the counts of deleted rows. done is TRUE after the last batch, and NULL if no tenant of that slug is marked.
--
-- SECURITY DEFINER: its caller may read no promise.
--
-- Locks: the workflow executions' rows and the promises', skipping locked ones, then their deliveries', then the keys', then
-- the receipts', then the tenant's. A create that began before
-- the suspension may commit while the last batch runs: then the batch fails on workflow_execution's foreign key.
--
-- Indexes: idx_workflow_execution_tenant, workflow_event_row_pkey, idx_promise_workflow, promise_pkey, delivery_promise_id_target_key, idx_idempotency_key_promise,
-- idempotency_key_pkey, idx_receipt_outcome, idx_api_key_tenant, source_tenant_id_name_key.
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

    DELETE FROM receipt r
    WHERE r.id = ANY (ARRAY(SELECT h.id FROM receipt h WHERE h.tenant_id = doomed LIMIT batch FOR UPDATE SKIP LOCKED));
    IF EXISTS (SELECT FROM receipt r WHERE r.tenant_id = doomed) THEN
        RETURN;
    END IF;

    DELETE FROM api_key a WHERE a.tenant_id = doomed;
    GET DIAGNOSTICS api_keys = ROW_COUNT;
    DELETE FROM destination d WHERE d.tenant_id = doomed;
    DELETE FROM source s WHERE s.tenant_id = doomed;
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
