-- Three changes: a recorded deadline has no copy of its value, a call that waits for settlements does not wait for the sweep, and lists read no
-- more rows than they return.
--
-- From this release on, the sweep leaves value and error of a promise NULL: they stay in timeout_value and timeout_error, and are read
-- from there if settled_by_kind is 'deadline'. Rows that an earlier release recorded have both. The previous release works on this
-- schema, but shows the promises that this release's sweep recorded without their value. So expire-promises is deployed after all
-- other functions. If a deployment is rolled back after that, copy the values by hand:
--
--     BEGIN;
--     ALTER TABLE promise DISABLE TRIGGER promise_final;
--     UPDATE promise SET value = timeout_value, error = timeout_error
--     WHERE settled_by_kind = 'deadline' AND (value, error) IS DISTINCT FROM (timeout_value, timeout_error);
--     ALTER TABLE promise ENABLE TRIGGER promise_final;
--     COMMIT;
--
-- Locks promise against writers, not readers, from here to the end, or gives up after a second. Two indexes are built under the lock.

-- +goose Up
SET LOCAL lock_timeout = '1s';
SET LOCAL statement_timeout = 0;
SET LOCAL maintenance_work_mem = '256MB';
LOCK TABLE promise IN SHARE MODE;

-- Deadlines by tenant, for the sweep's fair share, for lists by deadline, and for deadlines that nothing has recorded yet. The predicate names
-- outcome instead of resolved. Otherwise the planner would use idx_promise_due, which has the deadlines of all tenants.
CREATE INDEX idx_promise_due_by_tenant ON promise (tenant_id, timeout_at, id) WHERE outcome IS NULL AND timeout_at IS NOT NULL;

-- A workflow's promises of each outcome in the order of a list: list_promises_of_workflow.sql gives the reasons for this order.
-- workflow_execution_id is never NULL.
CREATE INDEX idx_promise_list ON promise (outcome, workflow_execution_id NULLS FIRST, created_at, id);

-- Waits until no settlement or extension that may still be in time for a passed deadline is running. migrations/functions has the current text
-- and the contract.
-- +goose StatementBegin
CREATE FUNCTION promise_await_settlements(promise_ids UUID[], workflow_ids UUID[]) RETURNS VOID
LANGUAGE plpgsql SECURITY DEFINER AS $$
#variable_conflict use_variable
DECLARE
    not_swept UUID[];
    awaited UUID[];
BEGIN
    BEGIN
        not_swept := ARRAY(SELECT p.id FROM promise p WHERE p.id = ANY (promise_ids) FOR KEY SHARE SKIP LOCKED);
        RAISE EXCEPTION USING ERRCODE = 'PR002';
    EXCEPTION WHEN SQLSTATE 'PR002' THEN
        NULL; -- the rollback of this block releases the promises' locks
    END;
    awaited := ARRAY(
        SELECT deadline.workflow_id
        FROM UNNEST(promise_ids, workflow_ids) AS deadline (promise_id, workflow_id)
        WHERE deadline.promise_id IS NULL OR deadline.promise_id = ANY (not_swept)
    );
    PERFORM FROM workflow_execution w WHERE w.id = ANY (awaited) ORDER BY w.id FOR SHARE;
END $$;

-- A SECURITY DEFINER function searches the schema of the tables, and pg_temp last: otherwise a temporary table of its caller would come
-- first.
DO $$
BEGIN
    EXECUTE format('ALTER FUNCTION promise_await_settlements(UUID[], UUID[]) SET search_path = %I, pg_temp', current_schema());
END $$;
-- +goose StatementEnd
REVOKE ALL ON FUNCTION promise_await_settlements(UUID[], UUID[]) FROM PUBLIC;
