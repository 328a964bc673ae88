-- Erases the body of a webhook with many items, whichever of its items has it, and counts a source as silent only if it is refused again and again.
--
-- receipt.body_ids has the ids of the bodies with the receipt's event, also of those that receipts of other items have. promise_erase deletes these
-- bodies. A body of before this file goes with the promise of its own receipt only.
--
-- source.refused_since is the time of the first refusal after the last verification or change.
--
-- The functions of the previous release work on this schema. They give no id of another item's body, and store no refused_since: a source is not counted
-- as silent until the new ones have stored one.
--
-- Locks source and receipt against all others, for a moment and without reading them, or gives up after a second for each.

-- +goose Up
SET LOCAL lock_timeout = '1s';
LOCK TABLE source, receipt IN ACCESS EXCLUSIVE MODE;
ALTER TABLE source ADD COLUMN refused_since TIMESTAMPTZ;
ALTER TABLE receipt ADD COLUMN body_ids UUID[];

-- From here on: copies of files in migrations/functions. Edit those, and repeat `go run ./migrations/snapshot NAME`.

-- +goose StatementBegin
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
-- +goose StatementEnd

-- +goose StatementBegin
-- Records on a receipt that a body has its event, and stores the body if the receipt is to have it.
--
-- Arguments:
--   of_receipt, of_promise  the receipt, and the promise of its key, or NULL
--   new_id                  the body's id
--   new_body                the body, sealed, or NULL if another receipt has it
--
-- A body with the event of an erased promise is deleted, whichever receipt has it. Otherwise a new body takes the place of the receipt's former one,
-- and a body that is not new stays. So promise_erase finds each body by the receipts of its promise.
--
-- Returns: nothing.
--
-- Locks: the promise's row, so that a concurrent promise_erase comes before or after all of this; then the receipt's, then the bodies'.
--
-- Indexes: promise_pkey, receipt_pkey, receipt_body_pkey, receipt_body_receipt_id_key.
CREATE OR REPLACE FUNCTION receipt_keep(of_receipt UUID, of_promise UUID, new_id UUID, new_body BYTEA) RETURNS VOID LANGUAGE plpgsql AS $$
#variable_conflict use_variable
BEGIN
    PERFORM FROM promise p WHERE p.id = of_promise FOR SHARE;
    IF EXISTS (SELECT FROM promise p WHERE p.id = of_promise AND p.erased_at IS NOT NULL) THEN
        DELETE FROM receipt_body b WHERE b.id = new_id;
        RETURN;
    END IF;
    IF NOT EXISTS (SELECT FROM receipt r WHERE r.id = of_receipt AND new_id = ANY (r.body_ids)) THEN
        PERFORM FROM receipt r WHERE r.id = of_receipt FOR NO KEY UPDATE; -- the next statement sees the bodies of all ids that the row has now
        UPDATE receipt r
        SET body_ids = ARRAY(SELECT b.id FROM receipt_body b WHERE b.id = ANY (r.body_ids)) || new_id
        WHERE r.id = of_receipt;
    END IF;
    IF new_body IS NOT NULL THEN
        DELETE FROM receipt_body b WHERE b.receipt_id = of_receipt AND (b.id <> new_id OR b.expires_at <= NOW());
        DELETE FROM receipt_body b WHERE b.id = new_id AND b.receipt_id <> of_receipt;
        INSERT INTO receipt_body (id, receipt_id, sealed, expires_at)
        VALUES (new_id, of_receipt, new_body, CLOCK_TIMESTAMP() + INTERVAL '168 hours')
        ON CONFLICT DO NOTHING;
    END IF;
END $$;

REVOKE ALL ON FUNCTION receipt_keep(UUID, UUID, UUID, BYTEA) FROM PUBLIC;
-- +goose StatementEnd

-- +goose StatementBegin
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
-- +goose StatementEnd
