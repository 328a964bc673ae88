-- Refuses a change of a settled promise. The trigger promise_final runs it for each update of one. But the promise's tokens can be revoked, a
-- missing resolved_by_sequence can be filled in once, and its contents can be erased once.
--
-- The function compares the columns by name, byte for byte. Further columns of an adopted table are not part of the promise.
CREATE OR REPLACE FUNCTION promise_final() RETURNS TRIGGER LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
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
