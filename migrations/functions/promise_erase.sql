-- Erases the contents of a settled promise: value, error, metadata, comment and default outcome. Its state, name, key, times, numbers and the
-- kind and id of its settler stay. Its deliveries that have not arrived end, and no delivery keeps the error of an attempt, which may quote the
-- value. The bodies of its webhooks are deleted, also those that receipts of other items have. If the deadline has passed and is not recorded yet,
-- the function first records it, as the sweep does.
--
-- Arguments: the tenant's slug, and the promise's id or, if that is NULL, its idempotency key.
-- Returns: the promise after the call. A pending promise, and one that was erased before, are returned unchanged. NULL if the tenant has
-- no such promise.
--
-- SECURITY DEFINER: no role but the owner may update erased_at or metadata.
--
-- Locks: the promise's row, then its deliveries', then the bodies' of its webhooks. If there is a deadline to record, the workflow execution's row before that, behind running settlements. If one
-- of them settled the promise or moved the deadline, the function raises promise_race_lost: everything is rolled back, and the caller retries.
--
-- Indexes: promise_pkey, idempotency_key_pkey, workflow_execution_pkey, delivery_promise_id_target_key, idx_receipt_promise,
-- receipt_body_receipt_id_key, receipt_body_pkey.
CREATE OR REPLACE FUNCTION promise_erase(tenant_slug VARCHAR, given_id UUID, given_key VARCHAR)
RETURNS promise LANGUAGE plpgsql SECURITY DEFINER AS $$
#variable_conflict use_variable
DECLARE
    caller_tenant UUID;
    target_id UUID := given_id;
    promise_row promise;
    number INT;
    moment TIMESTAMPTZ := NOW();
    bodies UUID[];
BEGIN
    SELECT id INTO caller_tenant FROM tenant WHERE slug = tenant_slug AND suspended_at IS NULL;
    IF target_id IS NULL THEN
        SELECT k.promise_id INTO target_id
        FROM idempotency_key k
        JOIN promise q ON q.id = k.promise_id
        WHERE k.tenant_id = caller_tenant AND k.key = given_key
          AND promise_key_names(k.expires_at, q.resolved, q.resolved_at, q.timeout_at, moment);
    END IF;
    SELECT p.* INTO promise_row FROM promise p WHERE p.id = target_id AND p.tenant_id = caller_tenant;
    IF promise_row.id IS NULL THEN
        RETURN NULL;
    END IF;

    IF NOT promise_row.resolved AND promise_row.timeout_at <= moment THEN
        UPDATE workflow_execution SET last_sequence_number = last_sequence_number + 1 WHERE id = promise_row.workflow_execution_id
        RETURNING last_sequence_number INTO number;
        moment := CLOCK_TIMESTAMP();
        UPDATE promise
        SET resolved = TRUE, outcome = promise_deadline_outcome(timeout_outcome), resolved_at = timeout_at, resolved_by_sequence = number,
            settled_by_kind = 'deadline'
        WHERE id = target_id AND NOT resolved AND timeout_at <= moment;
        IF NOT FOUND THEN
            PERFORM promise_race_lost(target_id);
        END IF;
        INSERT INTO workflow_event_row (workflow_execution_id, sequence_number, event_type, promise_id, created_at)
        VALUES (promise_row.workflow_execution_id, number, 'PROMISE_TIMEOUT', target_id, moment);
    END IF;

    UPDATE promise
    SET erased_at = CLOCK_TIMESTAMP(), value = NULL, error = NULL, metadata = NULL, comment = NULL,
        timeout_outcome = NULL, timeout_value = NULL, timeout_error = NULL
    WHERE id = target_id AND resolved AND erased_at IS NULL;
    IF FOUND AND promise_row.notifies THEN
        UPDATE delivery
        SET last_error = NULL, due_at = NULL, lease = NULL,
            state = CASE WHEN state IN ('due', 'dead') THEN 'gone' ELSE state END,
            ended_at = CASE WHEN state IN ('due', 'dead') THEN CLOCK_TIMESTAMP() ELSE ended_at END,
            end_reason = CASE WHEN state IN ('due', 'dead') THEN 'The promise was deleted.' ELSE end_reason END
        WHERE promise_id = target_id;
    END IF;
    SELECT p.* INTO promise_row FROM promise p WHERE p.id = target_id AND p.tenant_id = caller_tenant;
    IF promise_row.erased_at IS NOT NULL THEN
        bodies := ARRAY(
            SELECT b.id FROM receipt r JOIN receipt_body b ON b.receipt_id = r.id WHERE r.promise_id = target_id
            UNION
            SELECT UNNEST(r.body_ids) FROM receipt r WHERE r.promise_id = target_id
        );
        PERFORM FROM receipt_body b WHERE b.id = ANY (bodies) ORDER BY b.id FOR UPDATE; -- as another call locks them that erases an item's promise
        DELETE FROM receipt_body b WHERE b.id = ANY (bodies);
    END IF;
    RETURN CASE WHEN promise_row.id IS NOT NULL THEN promise_row END;
END $$;

-- The function searches the schema of the tables, and pg_temp last: otherwise a temporary table of its caller would come first.
DO $$
BEGIN
    EXECUTE format('ALTER FUNCTION promise_erase(VARCHAR, UUID, VARCHAR) SET search_path = %I, pg_temp', current_schema());
END $$;
REVOKE ALL ON FUNCTION promise_erase(VARCHAR, UUID, VARCHAR) FROM PUBLIC;
