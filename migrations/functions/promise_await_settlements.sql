-- Waits until no settlement or extension that may still be in time for a passed deadline is running. Rows that the caller reads afterwards and
-- that are past that deadline do not change any more.
--
-- Arguments: promise_ids[n] is the promise that has the deadline, or NULL, and workflow_ids[n] its workflow execution.
--
-- A settlement and an extension lock the workflow execution's row, then judge the deadline, and keep the lock until they commit. So the
-- function locks that row, too. It does not wait for the sweep, which locks the row first and then, FOR UPDATE, each promise whose deadline it
-- records. If a promise is locked so, no settlement of its workflow is running, and a later one is judged by a later clock. Settlements and
-- extensions lock a promise FOR NO KEY UPDATE, which does not conflict with KEY SHARE.
--
-- Locks: the promises' rows FOR KEY SHARE, skipping locked ones. The end of a block releases them, before the function waits for anything. Then
-- the workflow executions' rows FOR SHARE, in the order of their ids. The function has no lock when it returns: callers that wait for the same
-- workflow execution would otherwise keep its settlements out until each of them has committed.
--
-- Indexes: promise_pkey, workflow_execution_pkey.
CREATE OR REPLACE FUNCTION promise_await_settlements(promise_ids UUID[], workflow_ids UUID[]) RETURNS VOID
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
        NULL; -- the rollback of the block releases the locks
    END;
    awaited := ARRAY(
        SELECT deadline.workflow_id
        FROM UNNEST(promise_ids, workflow_ids) AS deadline (promise_id, workflow_id)
        WHERE deadline.promise_id IS NULL OR deadline.promise_id = ANY (not_swept)
    );
    BEGIN
        PERFORM FROM workflow_execution w WHERE w.id = ANY (awaited) ORDER BY w.id FOR SHARE;
        RAISE EXCEPTION USING ERRCODE = 'PR002';
    EXCEPTION WHEN SQLSTATE 'PR002' THEN
        NULL;
    END;
END $$;

-- The function searches the schema of the tables, and pg_temp last: otherwise a temporary table of its caller would come first.
DO $$
BEGIN
    EXECUTE format('ALTER FUNCTION promise_await_settlements(UUID[], UUID[]) SET search_path = %I, pg_temp', current_schema());
END $$;
REVOKE ALL ON FUNCTION promise_await_settlements(UUID[], UUID[]) FROM PUBLIC;
