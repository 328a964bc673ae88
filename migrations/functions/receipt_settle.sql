-- Settles a promise by a webhook, or stores the settlement for a promise to come, and records the receipt. Both happen in one transaction.
--
-- Arguments:
--   tenant_slug, of_source   the tenant and the source's id
--   given_event, given_item  what identifies the event: 'id:' and an id that its sender signed, or 'sha256:' and the digest of the signed bytes;
--                            and the number of earlier equal events of the same request
--   new_id                   the id of a new receipt
--   known_promise            the promise that the key named before a lost race, or NULL
--   new_rule, new_key        the rule that matched and the key that it made, or NULL
--   new_outcome              'resolved' or 'rejected' to settle the promise of the key; 'ignored' or 'rule_failed' to record just that
--   new_value, new_error     the settlement's value, or its error; the other is NULL
--   hold                     how long the settlement is stored if the key has no promise, or NULL: not at all
--   new_reason               a text for the receipt, or NULL
--   body_id, new_body        the id of the kept body, and the body, sealed; or NULL. An item whose request has its body with another item has the id
--                            alone, and comes after that item. See receipt_keep. A receipt that answers the call keeps no body.
--
-- Returns NULL if the tenant is unknown or suspended, or has no such source. Otherwise:
--   receipt_id  the receipt
--   outcome     its outcome: see promise.ReceiptOutcome. Three others mean that nothing was written. 'source_full' and 'tenant_full': the limit of
--               early settlements is reached. 'other_key': the same signed bytes have made another key, so what is not signed has changed.
--   promise_id  the promise of the key, or NULL
--   repeated    TRUE if the receipt answered the call. Then nothing was written but the id of the body.
--   key, reason the receipt's
--
-- An event that is compared with another early settlement shares its fate: see receipt_end.
--
-- A final receipt answers every later call of its event, and so does a receipt whose early settlement still waits. Any other outcome is judged anew.
-- If another call has settled or held the event meanwhile, the function raises promise_race_lost, everything is rolled back, and the caller retries.
-- So one event settles at most once.
--
-- A receipt stays a day longer than its key can name the promise, or hold the early settlement. So the same event never settles another promise.
--
-- SECURITY DEFINER: a caller needs no right to a promise.
--
-- Locks: those of promise_settle, then the key's row, then the receipt's, then those of receipt_keep.
--
-- Indexes: source_pkey, tenant_pkey, receipt_tenant_id_source_name_event_item_key, idempotency_key_pkey, and those of promise_settle and receipt_keep.
CREATE OR REPLACE FUNCTION receipt_settle(
    tenant_slug VARCHAR, of_source UUID, given_event VARCHAR, given_item INT, new_id UUID, known_promise UUID,
    new_rule VARCHAR, new_key VARCHAR, new_outcome VARCHAR, new_value BYTEA, new_error TEXT, hold INTERVAL, new_reason VARCHAR,
    body_id UUID, new_body BYTEA
) RETURNS receipt_result LANGUAGE plpgsql SECURITY DEFINER AS $$
#variable_conflict use_variable
DECLARE
    source_row source;
    former receipt; -- the receipt as it was read; of NULLs if there was none
    still_waits BOOLEAN := FALSE; -- the event's early settlement waits for its promise
    receipt_id UUID;
    outcome VARCHAR := new_outcome;
    settlement settle_result;
    early early_result;
    settlements_awaited BOOLEAN := FALSE;
    of_promise UUID;
    key_until TIMESTAMPTZ;
BEGIN
    SELECT s.* INTO source_row
    FROM source s
    JOIN tenant t ON t.id = s.tenant_id
    WHERE s.id = of_source AND t.slug = tenant_slug AND t.suspended_at IS NULL;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
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
        IF body_id IS NOT NULL THEN
            PERFORM receipt_keep(former.id, former.promise_id, body_id, NULL);
        END IF;
        IF given_event LIKE 'sha256:%' AND new_outcome IN ('resolved', 'rejected') AND former.key IS DISTINCT FROM new_key THEN
            RETURN (former.id, 'other_key', NULL, FALSE, former.key, NULL)::receipt_result;
        END IF;
        RETURN (former.id, former.outcome, former.promise_id, TRUE, former.key, former.reason)::receipt_result;
    END IF;
    receipt_id := COALESCE(former.id, new_id);

    IF new_outcome IN ('resolved', 'rejected') THEN
        settlement := promise_settle(
            tenant_slug, known_promise, CASE WHEN known_promise IS NULL THEN new_key END, new_outcome, new_value, new_error,
            'webhook', source_row.name, NULL
        );
        of_promise := settlement.promise_id;
        outcome := CASE
            WHEN of_promise IS NULL THEN 'not_found'
            WHEN settlement.settled THEN 'settled'
            WHEN settlement.by_deadline OR settlement.state = 'timed_out' THEN 'timed_out'
            WHEN settlement.same THEN 'duplicate'
            WHEN settlement.state = 'cancelled' THEN 'cancelled'
            ELSE 'conflict'
        END;
        IF hold IS NOT NULL AND outcome NOT IN ('settled', 'duplicate') THEN
            LOOP
                early := promise_settle_early(
                    tenant_slug, new_key, hold, new_outcome, new_value, new_error, 'webhook', source_row.name, NULL,
                    settlements_awaited, receipt_id, NOT source_row.held_full
                );
                EXIT WHEN early.uncertain IS NOT TRUE;
                PERFORM promise_await_settlements(ARRAY[NULL]::UUID[], ARRAY[early.workflow_execution_id]);
                settlements_awaited := TRUE;
            END LOOP;
            IF early.holder_id = of_promise THEN
                NULL; -- the key has not expired: its promise answers
            ELSIF early.expires_at IS NULL AND early.holder_id IS NULL AND early.is_full THEN
                RETURN (NULL, CASE WHEN source_row.held_full THEN 'source_full' ELSE 'tenant_full' END, NULL, FALSE, NULL, NULL)::receipt_result;
            ELSIF early.expires_at IS NULL THEN
                RAISE EXCEPTION 'another transaction came first' USING ERRCODE = 'PR001';
            ELSE
                of_promise := NULL;
                outcome := CASE
                    WHEN early.receipt_id = receipt_id THEN 'held'
                    WHEN early.same THEN 'duplicate'
                    ELSE 'conflict'
                END;
                IF outcome <> 'held' THEN -- the receipt ends with the early settlement, so the key's lock keeps that until the receipt is written
                    PERFORM FROM idempotency_key k
                    WHERE k.tenant_id = source_row.tenant_id AND k.key = new_key AND k.held_at IS NOT NULL
                      AND COALESCE(k.held_until, k.expires_at) = early.expires_at
                    FOR SHARE;
                    IF NOT FOUND THEN
                        RAISE EXCEPTION 'another transaction came first' USING ERRCODE = 'PR001';
                    END IF;
                END IF;
            END IF;
        END IF;
        SELECT GREATEST(k.expires_at, k.held_until) INTO key_until FROM idempotency_key k WHERE k.tenant_id = source_row.tenant_id AND k.key = new_key;
    END IF;

    IF former.id IS NULL THEN
        INSERT INTO receipt (
            id, tenant_id, source_id, source_name, event, item, rule, key, outcome, promise_id, reason, received_at, updated_at, expires_at, body_ids
        )
        VALUES (
            new_id, source_row.tenant_id, of_source, source_row.name, given_event, given_item, new_rule, new_key, outcome, of_promise,
            new_reason, CLOCK_TIMESTAMP(), CLOCK_TIMESTAMP(), GREATEST(key_until, CLOCK_TIMESTAMP()) + INTERVAL '192 hours',
            CASE WHEN body_id IS NOT NULL THEN ARRAY[body_id] END
        )
        ON CONFLICT (tenant_id, source_name, event, item) DO NOTHING;
    ELSE
        UPDATE receipt r
        SET source_id = of_source, rule = new_rule, key = new_key, outcome = outcome, promise_id = of_promise, reason = new_reason,
            updated_at = CLOCK_TIMESTAMP(),
            expires_at = GREATEST(r.expires_at, GREATEST(key_until, CLOCK_TIMESTAMP()) + INTERVAL '192 hours')
        WHERE r.id = former.id AND (
            (r.outcome, r.updated_at) IS NOT DISTINCT FROM (former.outcome, former.updated_at)
            OR outcome IN ('not_found', 'ignored', 'rule_failed') AND r.outcome <> 'held' AND NOT receipt_is_final(r.outcome)
        );
    END IF;
    IF NOT FOUND THEN -- another call has judged the event meanwhile
        RAISE EXCEPTION 'another transaction came first' USING ERRCODE = 'PR001';
    END IF;
    IF body_id IS NOT NULL THEN
        PERFORM receipt_keep(receipt_id, of_promise, body_id, new_body);
    END IF;
    RETURN (receipt_id, outcome, of_promise, FALSE, new_key, new_reason)::receipt_result;
END $$;

-- The function searches the schema of the tables, and pg_temp last: otherwise a temporary table of its caller would come first.
DO $$
BEGIN
    EXECUTE format(
        'ALTER FUNCTION receipt_settle(VARCHAR, UUID, VARCHAR, INT, UUID, UUID, VARCHAR, VARCHAR, VARCHAR, BYTEA, TEXT, INTERVAL, VARCHAR, UUID, BYTEA) '
        'SET search_path = %I, pg_temp', current_schema()
    );
END $$;
REVOKE ALL ON FUNCTION receipt_settle(VARCHAR, UUID, VARCHAR, INT, UUID, UUID, VARCHAR, VARCHAR, VARCHAR, BYTEA, TEXT, INTERVAL, VARCHAR, UUID, BYTEA)
    FROM PUBLIC;
