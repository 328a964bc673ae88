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
