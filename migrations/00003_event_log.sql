-- What settlement needs beyond the decision: the metadata and the key that a promise was created with, and the
-- workflow's event log with its dense numbers, which go on from the highest that a promise has.
--
-- Locks promise and workflow_execution against everybody from here to the end, or gives up after a second for each.

-- +goose Up
SET LOCAL lock_timeout = '1s';
SET LOCAL statement_timeout = 0;
SET LOCAL row_security = off;
SET LOCAL jit = off;
LOCK TABLE workflow_execution, promise IN ACCESS EXCLUSIVE MODE;
ALTER TABLE promise
    ADD COLUMN metadata        JSONB,
    ADD COLUMN idempotency_key VARCHAR(255); -- the key it was created with; the key itself may have passed on since

-- Where most workflows have one promise, idx_promise_workflow looks as good as the unique index for finding one by name,
-- and would read all promises of a workflow that has many. Ten for each workflow is what the planner is to reckon with.
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

-- A foreign key to workflow_execution would be checked for each event, which costs a settlement a fifth of its speed;
-- the statements that append take the id from the row that they hold, and the trigger does what the cascade would.
CREATE TABLE workflow_event (
    workflow_execution_id UUID NOT NULL,
    sequence_number       INT NOT NULL,
    event_type            VARCHAR(100) NOT NULL,
    promise_id            UUID NOT NULL,
    created_at            TIMESTAMPTZ NOT NULL DEFAULT NOW(),
    CONSTRAINT workflow_event_pkey PRIMARY KEY (workflow_execution_id, sequence_number)
);

-- A statement that took a number and then found that another transaction came first ends itself with this: it is rolled
-- back whole, the number is given back, and the caller runs it again, for the promise that is named.
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
