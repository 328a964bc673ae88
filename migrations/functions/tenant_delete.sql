-- Deletes one batch of the rows of a tenant that is marked by deleted_at, and finally the tenant. Concurrent calls delete different rows.
-- A tenant is suspended while it is marked, so no other call sees it half deleted.
--
-- Order: no more than batch event rows and promises together, and the keys of those promises; then the executions that have become empty; once
-- no execution is left, no more than batch other keys, and then as many receipts; with the last of them, all API keys,
-- all destinations, all sources and the tenant. The deliveries of a
-- promise are deleted with it, and so are the secrets of a destination and of a source.
--
-- Returns: the counts of deleted rows. done is TRUE after the last batch, and NULL if no tenant of that slug is marked.
--
-- SECURITY DEFINER: its caller may read no promise.
--
-- Locks: the workflow executions' rows and the promises', skipping locked ones, then their deliveries', then the keys', then
-- the receipts', then the tenant's. A create that began before
-- the suspension may commit while the last batch runs: then the batch fails on workflow_execution's foreign key.
--
-- Indexes: idx_workflow_execution_tenant, workflow_event_row_pkey, idx_promise_workflow, promise_pkey, delivery_promise_id_target_key, idx_idempotency_key_promise,
-- idempotency_key_pkey, idx_receipt_outcome, idx_api_key_tenant, source_tenant_id_name_key.
CREATE OR REPLACE FUNCTION tenant_delete(
    tenant_slug VARCHAR, batch INT,
    OUT promises INT, OUT keys INT, OUT events INT, OUT executions INT, OUT api_keys INT, OUT done BOOLEAN
) LANGUAGE plpgsql SECURITY DEFINER SET enable_seqscan = off AS $$
#variable_conflict use_variable
DECLARE
    doomed UUID;
    locked UUID[];
    ids UUID[];
    settled INT;
BEGIN
    SELECT t.id INTO doomed FROM tenant t WHERE t.slug = tenant_slug AND t.deleted_at IS NOT NULL;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    promises := 0;
    keys := 0;
    executions := 0;
    api_keys := 0;
    done := FALSE;

    locked := ARRAY(SELECT w.id FROM workflow_execution w WHERE w.tenant_id = doomed LIMIT batch FOR UPDATE SKIP LOCKED);
    DELETE FROM workflow_event_row
    WHERE ctid = ANY (ARRAY(SELECT e.ctid FROM workflow_event_row e WHERE e.workflow_execution_id = ANY (locked) LIMIT batch));
    GET DIAGNOSTICS events = ROW_COUNT;
    IF events = batch THEN
        RETURN;
    END IF;

    ids := ARRAY(
        SELECT p.id FROM promise p WHERE p.workflow_execution_id = ANY (locked) LIMIT batch - events FOR UPDATE SKIP LOCKED
    );
    PERFORM FROM delivery v WHERE v.promise_id = ANY (ids) ORDER BY v.promise_id, v.target FOR UPDATE; -- as the relay's record locks them
    DELETE FROM idempotency_key k WHERE k.promise_id = ANY (ids);
    GET DIAGNOSTICS keys = ROW_COUNT;
    WITH gone AS (
        DELETE FROM promise p WHERE p.id = ANY (ids) RETURNING p.settled_by_kind <> 'deadline' AS is_event
    )
    SELECT COUNT(*), COUNT(*) FILTER (WHERE gone.is_event) INTO promises, settled FROM gone;
    events := events + settled;
    IF CARDINALITY(ids) = batch THEN
        RETURN;
    END IF;

    DELETE FROM workflow_execution w
    WHERE w.id = ANY (locked) AND NOT EXISTS (SELECT FROM promise p WHERE p.workflow_execution_id = w.id);
    GET DIAGNOSTICS executions = ROW_COUNT;
    IF CARDINALITY(locked) > 0 OR EXISTS (SELECT FROM workflow_execution w WHERE w.tenant_id = doomed) THEN
        RETURN;
    END IF;

    DELETE FROM idempotency_key k
    WHERE k.tenant_id = doomed AND k.key = ANY (ARRAY(
        SELECT h.key FROM idempotency_key h WHERE h.tenant_id = doomed LIMIT batch FOR UPDATE SKIP LOCKED
    ));
    GET DIAGNOSTICS keys = ROW_COUNT;
    IF EXISTS (SELECT FROM idempotency_key k WHERE k.tenant_id = doomed) THEN
        RETURN;
    END IF;

    DELETE FROM receipt r
    WHERE r.id = ANY (ARRAY(SELECT h.id FROM receipt h WHERE h.tenant_id = doomed LIMIT batch FOR UPDATE SKIP LOCKED));
    IF EXISTS (SELECT FROM receipt r WHERE r.tenant_id = doomed) THEN
        RETURN;
    END IF;

    DELETE FROM api_key a WHERE a.tenant_id = doomed;
    GET DIAGNOSTICS api_keys = ROW_COUNT;
    DELETE FROM destination d WHERE d.tenant_id = doomed;
    DELETE FROM source s WHERE s.tenant_id = doomed;
    DELETE FROM tenant t WHERE t.id = doomed;
    done := FOUND;
    IF NOT done THEN -- another call has just deleted the last batch
        done := TRUE;
        RETURN;
    END IF;
    INSERT INTO deleted_tenant AS d (slug, tenant_id, deleted_at) VALUES (tenant_slug, doomed, CLOCK_TIMESTAMP())
    ON CONFLICT (slug) DO UPDATE SET tenant_id = EXCLUDED.tenant_id, deleted_at = EXCLUDED.deleted_at;
END $$;

-- The function searches the schema of the tables, and pg_temp last: otherwise a temporary table of its caller would come first.
DO $$
BEGIN
    EXECUTE format('ALTER FUNCTION tenant_delete(VARCHAR, INT) SET search_path = %I, pg_temp', current_schema());
END $$;
REVOKE ALL ON FUNCTION tenant_delete(VARCHAR, INT) FROM PUBLIC;
