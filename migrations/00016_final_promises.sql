-- A settled promise never changes, for any role and by any statement. The only exception is the erasure of personal data.
--
-- Two triggers enforce it for every role, the owner and a superuser included. A later migration that must break a rule disables the
-- trigger and enables it again in the same file, under the lock that ALTER TABLE takes.
--   promise_final     a settled promise keeps all its columns. But its tokens can be revoked, a missing resolved_by_sequence can be filled in
--                     once, and its contents can be erased once.
--   promise_identity  a pending promise keeps its id, tenant, workflow execution, name, key and creation number, and cannot be erased.
-- Both refuse to take back a revocation of tokens.
--
-- No CHECK requires an erased promise to have no contents, because Postgres parses each CHECK again for each statement. This one cost a settlement
-- by key 44,000 of 810,000 instructions (callgrind, Postgres 15.18, 2026-11-26); the two triggers together cost it 4,000.
--
-- Deletion is not a change in this sense: retention deletes whole promises.
--
-- The functions of the previous release work on this schema: none of them changes the protected columns.
--
-- Locks promise and api_key against all others for a moment (neither is rewritten; api_key is read once), or gives up after a second
-- for each.

-- +goose Up
SET LOCAL lock_timeout = '1s';
SET LOCAL statement_timeout = 0;
LOCK TABLE promise, api_key IN ACCESS EXCLUSIVE MODE;

ALTER TABLE api_key
    DROP CONSTRAINT api_key_scopes_known,
    ADD CONSTRAINT api_key_scopes_known CHECK (
        CARDINALITY(scopes) > 0 AND scopes <@ ARRAY['create', 'settle', 'read', 'manage']::VARCHAR[]
    );

ALTER TABLE promise ADD COLUMN erased_at TIMESTAMPTZ;

-- Refuses a change of a settled promise. It compares the columns by name, byte for byte. Further columns of an adopted table are not part of
-- the promise.
-- +goose StatementBegin
CREATE FUNCTION promise_final() RETURNS TRIGGER LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF ROW(
        NEW.id, NEW.workflow_execution_id, NEW.tenant_id, NEW.name, NEW.idempotency_key, NEW.resolved, NEW.outcome, NEW.timeout_at,
        NEW.created_at, NEW.resolved_at, NEW.created_by_sequence, NEW.settled_by_kind, NEW.settled_by_id
    )::RECORD *= ROW(
        OLD.id, OLD.workflow_execution_id, OLD.tenant_id, OLD.name, OLD.idempotency_key, OLD.resolved, OLD.outcome, OLD.timeout_at,
        OLD.created_at, OLD.resolved_at, OLD.created_by_sequence, OLD.settled_by_kind, OLD.settled_by_id
    )::RECORD
        AND (OLD.tokens_revoked_at IS NULL OR NEW.tokens_revoked_at >= OLD.tokens_revoked_at)
        AND (OLD.resolved_by_sequence IS NULL OR NEW.resolved_by_sequence IS NOT DISTINCT FROM OLD.resolved_by_sequence)
        AND (
            OLD.erased_at IS NULL AND NEW.erased_at IS NOT NULL AND num_nonnulls(
                NEW.value, NEW.error, NEW.metadata, NEW.comment, NEW.timeout_outcome, NEW.timeout_value, NEW.timeout_error
            ) = 0
            OR ROW(
                NEW.erased_at, NEW.value, NEW.error, NEW.metadata, NEW.comment, NEW.timeout_outcome, NEW.timeout_value, NEW.timeout_error
            )::RECORD *= ROW(
                OLD.erased_at, OLD.value, OLD.error, OLD.metadata, OLD.comment, OLD.timeout_outcome, OLD.timeout_value, OLD.timeout_error
            )::RECORD
        )
    THEN
        RETURN NULL;
    END IF;
    RAISE EXCEPTION 'promise % is settled: a settled promise never changes', OLD.id
        USING ERRCODE = 'restrict_violation', SCHEMA = TG_TABLE_SCHEMA, TABLE = TG_TABLE_NAME, CONSTRAINT = TG_NAME;
END $$;

CREATE FUNCTION promise_identity() RETURNS TRIGGER LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE EXCEPTION 'promise % keeps its id, tenant, workflow execution, name, key, creation number and revocation of tokens, and is not erased before it is settled', OLD.id
        USING ERRCODE = 'restrict_violation', SCHEMA = TG_TABLE_SCHEMA, TABLE = TG_TABLE_NAME, CONSTRAINT = TG_NAME;
END $$;
-- +goose StatementEnd

-- AFTER instead of BEFORE: a BEFORE trigger locks and reads the row's old version once more. For a pending row a settlement pays for the WHEN
-- alone. Postgres considers promise_identity only for a statement that names one of its columns: in the service promise_erase and revoke_tokens.
CREATE TRIGGER promise_final AFTER UPDATE ON promise
    FOR EACH ROW WHEN (OLD.resolved) EXECUTE FUNCTION promise_final();
CREATE TRIGGER promise_identity
    AFTER UPDATE OF id, workflow_execution_id, tenant_id, name, idempotency_key, created_by_sequence, tokens_revoked_at, erased_at ON promise
    FOR EACH ROW WHEN (
        NOT OLD.resolved AND NEW.erased_at IS NOT NULL OR
        OLD.tokens_revoked_at IS NOT NULL AND (NEW.tokens_revoked_at >= OLD.tokens_revoked_at) IS NOT TRUE OR
        (NEW.id, NEW.workflow_execution_id, NEW.tenant_id, NEW.name, NEW.idempotency_key, NEW.created_by_sequence)
        IS DISTINCT FROM
        (OLD.id, OLD.workflow_execution_id, OLD.tenant_id, OLD.name, OLD.idempotency_key, OLD.created_by_sequence)
    ) EXECUTE FUNCTION promise_identity();

-- Erases the contents of a settled promise. migrations/functions has the current text, with other names for its variables, and the contract.
-- +goose StatementBegin
CREATE FUNCTION promise_erase(tenant_slug VARCHAR, given_id UUID, given_key VARCHAR)
RETURNS promise LANGUAGE plpgsql SECURITY DEFINER AS $$
#variable_conflict use_variable
DECLARE
    caller UUID;
    target UUID := given_id;
    it promise;
    number INT;
    moment TIMESTAMPTZ := NOW();
BEGIN
    SELECT id INTO caller FROM tenant WHERE slug = tenant_slug AND suspended_at IS NULL;
    IF target IS NULL THEN
        SELECT k.promise_id INTO target
        FROM idempotency_key k
        JOIN promise q ON q.id = k.promise_id
        WHERE k.tenant_id = caller AND k.key = given_key
          AND promise_key_names(k.expires_at, q.resolved, q.resolved_at, q.timeout_at, moment);
    END IF;
    SELECT p.* INTO it FROM promise p WHERE p.id = target AND p.tenant_id = caller;
    IF it.id IS NULL THEN
        RETURN NULL;
    END IF;

    IF NOT it.resolved AND it.timeout_at <= moment THEN
        UPDATE workflow_execution SET last_sequence_number = last_sequence_number + 1 WHERE id = it.workflow_execution_id
        RETURNING last_sequence_number INTO number;
        moment := CLOCK_TIMESTAMP();
        UPDATE promise
        SET resolved = TRUE, outcome = COALESCE(timeout_outcome, 'timed_out'), resolved_at = timeout_at, resolved_by_sequence = number,
            settled_by_kind = 'deadline'
        WHERE id = target AND NOT resolved AND timeout_at <= moment;
        IF NOT FOUND THEN
            PERFORM promise_race_lost(target);
        END IF;
        INSERT INTO workflow_event_row (workflow_execution_id, sequence_number, event_type, promise_id, created_at)
        VALUES (it.workflow_execution_id, number, 'PROMISE_TIMEOUT', target, moment);
    END IF;

    UPDATE promise
    SET erased_at = CLOCK_TIMESTAMP(), value = NULL, error = NULL, metadata = NULL, comment = NULL,
        timeout_outcome = NULL, timeout_value = NULL, timeout_error = NULL
    WHERE id = target AND resolved AND erased_at IS NULL;
    SELECT p.* INTO it FROM promise p WHERE p.id = target AND p.tenant_id = caller;
    RETURN CASE WHEN it.id IS NOT NULL THEN it END;
END $$;

-- A SECURITY DEFINER function searches the schema of the tables, and pg_temp last: otherwise a temporary table of its caller would come
-- first.
DO $$
BEGIN
    EXECUTE format('ALTER FUNCTION promise_erase(VARCHAR, UUID, VARCHAR) SET search_path = %I, pg_temp', current_schema());
END $$;

-- promise_settle reports no settlement as the same as that of an erased promise: a cancellation without a reason has no contents either. 00018
-- states the text that this patch makes.
DO $$
DECLARE
    old_text TEXT := pg_get_functiondef('promise_settle(VARCHAR, UUID, VARCHAR, VARCHAR, BYTEA, TEXT, VARCHAR, VARCHAR, VARCHAR)'::REGPROCEDURE);
    new_text TEXT := old_text;
BEGIN
    new_text := REPLACE(new_text, 'old_error TEXT;', E'old_error TEXT;\n    erased TIMESTAMPTZ;');
    new_text := REPLACE(new_text, 'p.value, p.error', 'p.value, p.error, p.erased_at');
    new_text := REPLACE(new_text, 'kind, old_value, old_error', 'kind, old_value, old_error, erased');
    new_text := REPLACE(new_text, 'state = new_outcome AND old_value', 'erased IS NULL AND state = new_outcome AND old_value');
    IF LENGTH(new_text) - LENGTH(old_text) <> LENGTH(E'\n    erased TIMESTAMPTZ;, p.erased_at, erasederased IS NULL AND ') THEN
        RAISE EXCEPTION 'promise_settle is not as this file expects it';
    END IF;
    EXECUTE new_text;
END $$;
-- +goose StatementEnd
