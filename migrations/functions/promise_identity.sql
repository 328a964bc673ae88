-- Refuses a change of a pending promise. The trigger promise_identity runs it if a statement changes a protected column: the id, tenant, workflow
-- execution, name, key or creation number. It also runs it for an erasure, and if a revocation of tokens is taken back.
CREATE OR REPLACE FUNCTION promise_identity() RETURNS TRIGGER LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE EXCEPTION 'promise % keeps its id, tenant, workflow execution, name, key, creation number and revocation of tokens, and is not erased before it is settled', OLD.id
        USING ERRCODE = 'restrict_violation', SCHEMA = TG_TABLE_SCHEMA, TABLE = TG_TABLE_NAME, CONSTRAINT = TG_NAME;
END $$;
