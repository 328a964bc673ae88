-- Deletes the event rows of deleted workflow executions. The trigger workflow_execution_delete_events runs it for each DELETE, because
-- workflow_event_row has no foreign key to workflow_execution.
--
-- Indexes: workflow_event_row_pkey.
CREATE OR REPLACE FUNCTION workflow_event_delete() RETURNS TRIGGER LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    DELETE FROM workflow_event_row e USING gone WHERE e.workflow_execution_id = gone.id;
    RETURN NULL;
END $$;
