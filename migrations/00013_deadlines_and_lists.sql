-- Recorded deadlines without a copy of their value, waiting that the sweep does not hold up, and lists that read no more than they show.
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

-- Deadlines by tenant: the sweep's fair share, lists by deadline, and what nothing has recorded yet. The predicate names outcome and not
-- resolved, so that the planner does not take idx_promise_due, which has all tenants, in its place.
CREATE INDEX idx_promise_due_by_tenant ON promise (tenant_id, timeout_at, id) WHERE outcome IS NULL AND timeout_at IS NOT NULL;

-- A workflow's promises of each outcome in the order of a list: list_promises_of_workflow.sql says why it is made so.
-- workflow_execution_id is never NULL.
CREATE INDEX idx_promise_list ON promise (outcome, workflow_execution_id NULLS FIRST, created_at, id);

-- Waits until no settlement and no extension is running that may still be in time for a deadline that has passed. promise_ids[n] is
-- the promise whose deadline it is, or NULL, and workflow_ids[n] its workflow execution. What the caller reads after this, past that
-- deadline, does not change.
--
-- A settlement and an extension lock the workflow execution's row, then judge the deadline, and keep the lock until they commit. So the
-- function locks that row, too. It does not wait for the sweep: the sweep locks the row first, and then, FOR UPDATE, each
-- promise whose deadline it records. If a promise is locked so, no settlement of its workflow is running, and a later one
-- is judged by a later clock. Settlements and extensions lock a promise FOR NO KEY UPDATE, which KEY SHARE does not conflict with.
--
-- Locks: the promises' rows FOR KEY SHARE, skipping locked ones. They are released before the function waits for anything, by the
-- end of the inner block. Then the workflow executions' rows FOR SHARE, in the order of their ids.
--
-- promise_pkey, workflow_execution_pkey.
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
        NULL; -- the promises' locks are released
    END;
    awaited := ARRAY(
        SELECT deadline.workflow_id
        FROM UNNEST(promise_ids, workflow_ids) AS deadline (promise_id, workflow_id)
        WHERE deadline.promise_id IS NULL OR deadline.promise_id = ANY (not_swept)
    );
    PERFORM FROM workflow_execution w WHERE w.id = ANY (awaited) ORDER BY w.id FOR SHARE;
END $$;

-- A definer function looks its names up in the schema of the tables alone, and in pg_temp last: else a caller's temporary table would
-- come first.
DO $$
BEGIN
    EXECUTE format('ALTER FUNCTION promise_await_settlements(UUID[], UUID[]) SET search_path = %I, pg_temp', current_schema());
END $$;
-- +goose StatementEnd
REVOKE ALL ON FUNCTION promise_await_settlements(UUID[], UUID[]) FROM PUBLIC;
