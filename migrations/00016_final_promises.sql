-- A settled promise never changes, whichever role or statement tries, and erasing personal data is the one exception.
--
-- Two triggers enforce it for every role, the owner and a superuser included. A later migration that must break a rule disables the
-- trigger and enables it again in the same file, under the lock that ALTER TABLE takes.
--   promise_final     a settled promise changes in nothing, except that its tokens can be revoked, a missing resolved_by_sequence can
--                     be filled in once, and its contents can be erased once.
--   promise_identity  a pending promise keeps its id, tenant, workflow execution, name, key and creation number, and is not erased.
-- A revocation of tokens is never taken back: both see to that.
-- No CHECK says that an erased promise has no contents: Postgres reads each CHECK anew for each statement, and this one cost a settlement
-- by key 44,000 of 810,000 instructions (callgrind, Postgres 15.18, 2026-11-26); the two triggers together cost it 4,000.
-- Deleting is no change: retention deletes whole promises.
--
-- The functions of the previous release work on this schema: none of them changes what the triggers protect.
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

-- Refuses a change of a settled promise. It compares the columns byte for byte, by name: columns that an adopted table has besides are
-- not part of the promise.
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

-- AFTER and not BEFORE: a BEFORE trigger locks and reads the row's old version once more. For a pending row a settlement pays for the
-- WHEN alone. promise_identity is considered only if a statement names one of its columns, and of the service's only promise_erase and revoke_tokens do.
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

-- Erases the contents of a settled promise of the tenant of that slug, by id or, if that is NULL, by idempotency key: value, error,
-- metadata, comment and default outcome. Its state, name, key, times and numbers stay, and who settled it. Returns the promise as it is
-- then. A promise that was erased before, or is pending, is returned as it is. A deadline that has passed and is not recorded yet is
-- recorded first, as the sweep does it. Returns NULL if the tenant has no such promise.
--
-- SECURITY DEFINER: no role but the owner may update erased_at or metadata.
--
-- Locks: the promise's row; before it, if there is a deadline to record, the workflow execution's row, which waits for settlements. If
-- one of them settled the promise or moved the deadline, promise_race_lost rolls everything back, and the caller retries.
--
-- promise_pkey, idempotency_key_pkey, workflow_execution_pkey.
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

-- A definer function looks its names up in the schema of the tables alone, and in pg_temp last: else a caller's temporary table would
-- come first.
DO $$
BEGIN
    EXECUTE format('ALTER FUNCTION promise_erase(VARCHAR, UUID, VARCHAR) SET search_path = %I, pg_temp', current_schema());
END $$;

-- A cancellation without a reason has no contents, like an erased one. promise_settle compares nothing with an erased promise.
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
