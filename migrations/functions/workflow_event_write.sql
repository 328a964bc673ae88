-- Writes an event to the view workflow_event, or deletes one: the trigger workflow_event_write runs it for each row. The row of a settled
-- promise is itself the event of its settlement, so such an event is not stored a second time.
--
-- Indexes: workflow_event_row_pkey.
CREATE OR REPLACE FUNCTION workflow_event_write() RETURNS TRIGGER LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        DELETE FROM workflow_event_row
        WHERE workflow_execution_id = OLD.workflow_execution_id AND sequence_number = OLD.sequence_number;
        RETURN OLD;
    END IF;
    IF NEW.event_type IN ('PROMISE_CREATED', 'PROMISE_EXTENDED', 'PROMISE_TIMEOUT') THEN
        INSERT INTO workflow_event_row
        VALUES (NEW.workflow_execution_id, NEW.sequence_number, NEW.event_type, NEW.promise_id, COALESCE(NEW.created_at, NOW()), NEW.timeout_at);
    END IF;
    RETURN NEW;
END $$;
