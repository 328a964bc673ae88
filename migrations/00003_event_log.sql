-- The event log of a workflow execution, and the metadata and idempotency key that a promise was created with. Sequence numbers have no gaps, and
-- continue from the highest number that a promise of the execution has.
--
-- Locks promise and workflow_execution against all others from here to the end, or gives up after a second for each.

-- +goose Up
SET LOCAL lock_timeout = '1s';
SET LOCAL statement_timeout = 0;
SET LOCAL row_security = off;
SET LOCAL jit = off;
LOCK TABLE workflow_execution, promise IN ACCESS EXCLUSIVE MODE;
ALTER TABLE promise
    ADD COLUMN metadata        JSONB,
    ADD COLUMN idempotency_key VARCHAR(255); -- the key it was created with; another promise may have taken that key over since

-- If most workflows have one promise, the planner rates idx_promise_workflow as highly as the unique index for a lookup by name, and then reads all
-- promises of a large workflow. So it is made to expect ten promises in each workflow.
ALTER TABLE promise ALTER COLUMN workflow_execution_id SET (n_distinct = -0.1);

ALTER TABLE workflow_execution ADD COLUMN last_sequence_number INT NOT NULL DEFAULT 0;
UPDATE workflow_execution w
SET last_sequence_number = s.last
FROM (
    SELECT workflow_execution_id, MAX(GREATEST(created_by_sequence, resolved_by_sequence)) AS last
    FROM promise
    GROUP BY workflow_execution_id
) AS s
WHERE s.workflow_execution_id = w.id;

-- No foreign key to workflow_execution: its check costs a settlement a fifth of its speed. The statements that insert events take the id
-- from a row that they have locked, and the trigger below deletes events as a cascade would.
CREATE TABLE workflow_event (
    workflow_execution_id UUID NOT NULL,
    sequence_number       INT NOT NULL,
    event_type            VARCHAR(100) NOT NULL,
    promise_id            UUID NOT NULL,
    created_at            TIMESTAMPTZ NOT NULL DEFAULT NOW(),
    CONSTRAINT workflow_event_pkey PRIMARY KEY (workflow_execution_id, sequence_number)
);

-- Raises PR001 in a statement that took a sequence number and then lost a race. The statement is rolled back, the number with it, and the
-- caller repeats it for the promise that DETAIL names.
-- +goose StatementBegin
CREATE FUNCTION promise_race_lost(promise_id UUID) RETURNS UUID LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'another transaction came first' USING ERRCODE = 'PR001', DETAIL = promise_id;
END $$;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE FUNCTION workflow_event_delete() RETURNS TRIGGER LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    DELETE FROM workflow_event e USING gone WHERE e.workflow_execution_id = gone.id;
    RETURN NULL;
END $$;
-- +goose StatementEnd
CREATE TRIGGER workflow_execution_delete_events AFTER DELETE ON workflow_execution
    REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION workflow_event_delete();
