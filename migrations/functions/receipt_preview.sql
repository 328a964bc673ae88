-- Foresees what receipt_settle would do, and writes nothing. A concurrent call, or a deadline that is not recorded yet, may change the outcome.
--
-- Arguments: as those of receipt_settle of the same names.
--
-- Returns: NULL if the tenant is unknown or suspended, or has no such source. Otherwise the result that receipt_settle would return. receipt_id is
-- NULL if the event has no receipt yet.
--
-- SECURITY DEFINER: a caller needs no right to a promise.
--
-- Locks: none.
--
-- Indexes: source_pkey, tenant_pkey, receipt_tenant_id_source_name_event_item_key, idempotency_key_pkey, promise_pkey.
CREATE OR REPLACE FUNCTION receipt_preview(
    tenant_slug VARCHAR, of_source UUID, given_event VARCHAR, given_item INT, new_key VARCHAR, new_outcome VARCHAR, new_value BYTEA,
    new_error TEXT, hold INTERVAL
) RETURNS receipt_result LANGUAGE plpgsql STABLE SECURITY DEFINER AS $$
#variable_conflict use_variable
DECLARE
    source_row source;
    tenant_full BOOLEAN;
    former receipt;
    still_waits BOOLEAN := FALSE; -- the event's early settlement waits for its promise
    key_row idempotency_key;
    promise_row promise;
    state VARCHAR;
    outcome VARCHAR;
BEGIN
    SELECT s.* INTO source_row
    FROM source s
    JOIN tenant t ON t.id = s.tenant_id
    WHERE s.id = of_source AND t.slug = tenant_slug AND t.suspended_at IS NULL;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    SELECT t.held_full INTO tenant_full FROM tenant t WHERE t.id = source_row.tenant_id;
    SELECT r.* INTO former
    FROM receipt r
    WHERE r.tenant_id = source_row.tenant_id AND r.source_name = source_row.name AND r.event = given_event AND r.item = given_item;
    IF former.outcome = 'held' THEN
        still_waits := EXISTS (
            SELECT FROM idempotency_key k
            WHERE k.tenant_id = source_row.tenant_id AND k.key = former.key AND k.held_by_kind = 'webhook' AND k.held_receipt_id = former.id
              AND COALESCE(k.held_until, k.expires_at) > NOW()
        );
    END IF;
    IF receipt_is_final(former.outcome) OR still_waits THEN
        IF given_event LIKE 'sha256:%' AND new_outcome IN ('resolved', 'rejected') AND former.key IS DISTINCT FROM new_key THEN
            RETURN (former.id, 'other_key', NULL, FALSE, former.key, NULL)::receipt_result;
        END IF;
        RETURN (former.id, former.outcome, former.promise_id, TRUE, former.key, former.reason)::receipt_result;
    END IF;
    IF new_outcome NOT IN ('resolved', 'rejected') THEN
        RETURN (former.id, new_outcome, NULL, FALSE, new_key, NULL)::receipt_result;
    END IF;

    SELECT k.* INTO key_row FROM idempotency_key k WHERE k.tenant_id = source_row.tenant_id AND k.key = new_key;
    SELECT p.* INTO promise_row
    FROM promise p
    WHERE p.id = key_row.promise_id AND promise_key_names(key_row.expires_at, p.resolved, p.resolved_at, p.timeout_at, NOW());
    IF promise_row.id IS NULL THEN
        outcome := 'not_found';
    ELSIF NOT promise_row.resolved THEN
        outcome := CASE WHEN promise_row.timeout_at <= NOW() THEN 'timed_out' ELSE 'settled' END;
    ELSE
        outcome := CASE
            WHEN promise_by_deadline(promise_row.outcome, promise_row.settled_by_kind) OR promise_row.outcome = 'timed_out' THEN 'timed_out'
            WHEN promise_row.erased_at IS NULL AND promise_row.outcome = new_outcome AND promise_row.value IS NOT DISTINCT FROM new_value
                AND promise_row.error IS NOT DISTINCT FROM new_error THEN 'duplicate'
            WHEN promise_row.outcome = 'cancelled' THEN 'cancelled'
            ELSE 'conflict'
        END;
    END IF;
    IF hold IS NOT NULL AND outcome NOT IN ('settled', 'duplicate')
        AND (promise_row.id IS NULL OR NOT promise_key_live(key_row.expires_at, promise_row.resolved, promise_row.timeout_at, NOW()))
    THEN
        promise_row := NULL;
        outcome := CASE
            WHEN key_row.held_at IS NULL OR COALESCE(key_row.held_until, key_row.expires_at) <= NOW() THEN
                CASE WHEN source_row.held_full THEN 'source_full' WHEN tenant_full THEN 'tenant_full' ELSE 'held' END
            WHEN key_row.held_outcome = new_outcome AND key_row.held_value IS NOT DISTINCT FROM new_value
                AND key_row.held_error IS NOT DISTINCT FROM new_error THEN 'duplicate'
            ELSE 'conflict'
        END;
    END IF;
    RETURN (former.id, outcome, promise_row.id, FALSE, new_key, NULL)::receipt_result;
END $$;

-- The function searches the schema of the tables, and pg_temp last: otherwise a temporary table of its caller would come first.
DO $$
BEGIN
    EXECUTE format(
        'ALTER FUNCTION receipt_preview(VARCHAR, UUID, VARCHAR, INT, VARCHAR, VARCHAR, BYTEA, TEXT, INTERVAL) SET search_path = %I, pg_temp',
        current_schema()
    );
END $$;
REVOKE ALL ON FUNCTION receipt_preview(VARCHAR, UUID, VARCHAR, INT, VARCHAR, VARCHAR, BYTEA, TEXT, INTERVAL) FROM PUBLIC;
