-- Creates a promise and registers its idempotency key, both or neither. Registers the workflow execution, too, if it is not known yet.
--
-- Arguments:
--   tenant_slug             the tenant
--   workflow                the workflow execution
--   new_external_id         the text from which the execution's id was derived, or NULL. The first one that is given stays.
--   new_name                the promise's name, unique in its workflow execution
--   new_key, key_ttl        its idempotency key and how long the key stays registered, or NULL
--   new_timeout, new_timeout_at  the deadline, counted from the creation or as a moment; both NULL for none
--   new_metadata            metadata, or NULL
--   deadline_outcome, deadline_value, deadline_error  the outcome, value and error at the deadline; all NULL for timed_out
--   workflow_limit          how many promises a workflow execution may have if its tenant has no limit of its own
--   waited                  TRUE if the caller has called promise_await_settlements for the promise of the key
--   notify                  the targets: see delivery_create. NULL for the tenant's default destination, if it has one.
--
-- Returns NULL if the tenant is unknown or suspended, or if the workflow execution belongs to another tenant. Otherwise:
--   what             'created', 'existing', 'key_holder', 'pending_full' or 'workflow_full'
--   it               the promise. created: the new one. existing: the one that the workflow execution already has under this name.
--                    key_holder: the one that the key belongs to, without value, error, metadata, timeout_value and timeout_error.
--                    Otherwise a placeholder: a quota refused the promise, and nothing was written.
--   external_id      the external id that the workflow execution has
--   doubtful         TRUE if it is uncertain whether the key_holder still has the key: only its deadline ends it, and an extension that has
--                    not committed may keep it pending. The caller calls promise_await_settlements, and then this function again with
--                    waited = TRUE.
--   same_key, same_metadata, same_on_timeout
--                    whether the existing promise has the same key, metadata and default outcome. If they are the same, or if only the key is and the promise
--                    is erased, its deliveries get the new tokens: see delivery_renew, which refuses other targets.
--   lost_hold        TRUE if an early settlement under the key was discarded, because it arrived after the deadline or had expired. The early
--                    settlement of a webhook does not count: its receipt records it.
--
-- Quotas: tenant.pending_full refuses a promise, unless an early settlement settles it at once. workflow_execution.promises_left refuses one at
-- 0, and above the limit, which may have been lowered. The limit is tenant.max_workflow_promises or, if that is NULL, workflow_limit, and a new
-- execution starts with it. An execution from before the quota starts with the limit less its last sequence number, which is at least the
-- number of its promises. The caller recounts a full execution.
--
-- An early settlement under the key settles the new promise, if it arrived before the deadline and has not expired. A create takes over a key
-- that has expired and whose promise is settled, if the key's row is still as it was read.
--
-- The first statement creates the row of a new workflow execution, or takes the next number of a known one. It does so only if neither the
-- promise nor the key exists, no quota is full, promises_left is set and within the limit, and the tenant has no default destination. Otherwise the function reads all rows at one
-- moment and decides by them.
--
-- Locks: the workflow execution's row, then the promise's, then the key's, then the receipts' of an early settlement, then those of delivery_create. The rows are first read without a lock. If another create commits in
-- between, this one fails on promise_workflow_execution_id_name_key or, if the other took the key, raises promise_race_lost. Nothing is
-- written, and the caller retries.
--
-- Indexes: promise_workflow_execution_id_name_key, idempotency_key_pkey, promise_pkey, workflow_execution_pkey.
CREATE OR REPLACE FUNCTION promise_create(
    tenant_slug VARCHAR, workflow UUID, new_external_id VARCHAR, new_name VARCHAR, new_key VARCHAR, key_ttl INTERVAL,
    new_timeout INTERVAL, new_timeout_at TIMESTAMPTZ, new_metadata JSONB, deadline_outcome VARCHAR, deadline_value BYTEA,
    deadline_error TEXT, workflow_limit INT, waited BOOLEAN,
    notify VARCHAR[] DEFAULT NULL
) RETURNS promise_created LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
    settlements_awaited ALIAS FOR waited;
    caller_tenant UUID;
    number INT;
    moment TIMESTAMPTZ;
    found_rows RECORD;
    key_as_read idempotency_key;
    early_settlement idempotency_key; -- the key's row, if its early settlement settles the new promise
    early_expired BOOLEAN;
    promise_row promise; -- the promise to return
    stored_external_id VARCHAR;
    full_quota VARCHAR;
BEGIN
    INSERT INTO workflow_execution AS w (id, tenant_id, last_sequence_number, external_id, promises_left)
    SELECT workflow, t.id, 1, new_external_id, COALESCE(t.max_workflow_promises, workflow_limit) - 1
    FROM tenant t
    WHERE t.slug = tenant_slug AND t.suspended_at IS NULL AND NOT t.pending_full
      AND t.default_destination_id IS NULL
      AND NOT EXISTS (SELECT FROM workflow_execution o WHERE o.id = workflow AND o.tenant_id <> t.id)
      AND NOT EXISTS (SELECT FROM promise p WHERE p.workflow_execution_id = workflow AND p.name = new_name)
      AND NOT EXISTS (SELECT FROM idempotency_key k WHERE k.tenant_id = t.id AND k.key = new_key)
    ON CONFLICT (id) DO UPDATE
        SET last_sequence_number = w.last_sequence_number + 1, external_id = COALESCE(w.external_id, EXCLUDED.external_id),
            promises_left = w.promises_left - 1
        WHERE w.tenant_id = EXCLUDED.tenant_id AND w.promises_left > 0 AND w.promises_left <= EXCLUDED.promises_left + 1
    RETURNING w.tenant_id, w.last_sequence_number, w.external_id, CLOCK_TIMESTAMP()
    INTO caller_tenant, number, stored_external_id, moment;

    IF NOT FOUND THEN
        SELECT
            t.id AS tenant, t.pending_full, t.default_destination_id AS default_destination, COALESCE(t.max_workflow_promises, workflow_limit) AS workflow_limit,
            p AS existing, q AS holder, k AS key, p.id AS existing_id,
            p.idempotency_key IS NOT DISTINCT FROM new_key OR COALESCE(k.promise_id = p.id, FALSE) AS same_key,
            p.metadata IS NOT DISTINCT FROM new_metadata AS same_metadata,
            (p.timeout_outcome, p.timeout_value, p.timeout_error)
                IS NOT DISTINCT FROM (deadline_outcome, deadline_value, deadline_error) AS same_on_timeout,
            q.id IS NOT NULL AND promise_key_live(k.expires_at, q.resolved, q.timeout_at, NOW()) AS key_live,
            COALESCE(promise_key_uncertain(k.expires_at, q.resolved, q.timeout_at, NOW()) AND NOT settlements_awaited, FALSE)
                AS key_uncertain,
            k.held_at IS NOT NULL AS has_early,
            CASE WHEN k.held_by_kind = 'webhook' THEN k.held_receipt_id END AS receipt_id,
            k.held_at IS NOT NULL AND COALESCE(k.held_until, k.expires_at) > NOW()
                AND (new_timeout_at IS NULL OR new_timeout_at > k.held_at) AS early_settles
        INTO found_rows
        FROM tenant t
        LEFT JOIN promise p ON p.workflow_execution_id = workflow AND p.name = new_name
        LEFT JOIN idempotency_key k ON k.tenant_id = t.id AND k.key = new_key
        LEFT JOIN promise q ON q.id = k.promise_id
        WHERE t.slug = tenant_slug AND t.suspended_at IS NULL
          AND NOT EXISTS (SELECT FROM workflow_execution w WHERE w.id = workflow AND w.tenant_id <> t.id);
        IF NOT FOUND THEN
            RETURN NULL;
        END IF;
        IF found_rows.existing_id IS NOT NULL THEN
            SELECT w.external_id INTO stored_external_id FROM workflow_execution w WHERE w.id = workflow;
            promise_row := found_rows.existing;
            IF (notify <> '{}' OR promise_row.notifies) AND found_rows.same_key
                AND (promise_row.erased_at IS NOT NULL OR found_rows.same_metadata AND found_rows.same_on_timeout)
            THEN
                PERFORM delivery_renew(promise_row, notify);
            END IF;
            RETURN (
                'existing', promise_row, stored_external_id, FALSE, found_rows.same_key, found_rows.same_metadata,
                found_rows.same_on_timeout, FALSE
            )::promise_created;
        END IF;
        IF found_rows.key_live OR found_rows.key_uncertain THEN
            promise_row := found_rows.holder;
            promise_row.value := NULL;
            promise_row.error := NULL;
            promise_row.metadata := NULL;
            promise_row.timeout_value := NULL;
            promise_row.timeout_error := NULL;
            RETURN ('key_holder', promise_row, NULL, found_rows.key_uncertain, TRUE, TRUE, TRUE, FALSE)::promise_created;
        END IF;
        key_as_read := found_rows.key;
        IF found_rows.early_settles THEN
            early_settlement := found_rows.key;
        END IF;
        early_expired := found_rows.has_early AND NOT found_rows.early_settles AND found_rows.receipt_id IS NULL;
        IF notify IS NULL AND found_rows.default_destination IS NOT NULL THEN
            notify := ARRAY[NULL, NULL, NULL];
        END IF;

        IF found_rows.pending_full AND NOT found_rows.early_settles THEN
            full_quota := 'pending_full';
        ELSE
            INSERT INTO workflow_execution AS w (id, tenant_id, last_sequence_number, external_id, promises_left)
            VALUES (
                workflow, found_rows.tenant, CASE WHEN found_rows.early_settles THEN 2 ELSE 1 END, new_external_id,
                found_rows.workflow_limit - 1
            )
            ON CONFLICT (id) DO UPDATE
                SET last_sequence_number = w.last_sequence_number + EXCLUDED.last_sequence_number,
                    external_id = COALESCE(w.external_id, EXCLUDED.external_id),
                    promises_left = COALESCE(w.promises_left, EXCLUDED.promises_left + 1 - w.last_sequence_number) - 1
                WHERE w.tenant_id = EXCLUDED.tenant_id
                    AND COALESCE(w.promises_left, EXCLUDED.promises_left + 1 - w.last_sequence_number)
                        BETWEEN 1 AND EXCLUDED.promises_left + 1
            RETURNING w.tenant_id, w.last_sequence_number, w.external_id, CLOCK_TIMESTAMP()
            INTO caller_tenant, number, stored_external_id, moment;
            IF NOT FOUND THEN
                PERFORM FROM workflow_execution w WHERE w.id = workflow AND w.tenant_id = found_rows.tenant;
                IF NOT FOUND THEN
                    RETURN NULL;
                END IF;
                full_quota := 'workflow_full';
            END IF;
        END IF;
        IF full_quota IS NOT NULL THEN
            promise_row.id := '00000000-0000-0000-0000-000000000000';
            promise_row.workflow_execution_id := workflow;
            promise_row.name := new_name;
            promise_row.created_at := NOW();
            promise_row.created_by_sequence := 0;
            RETURN (full_quota, promise_row, NULL, FALSE, TRUE, TRUE, TRUE, FALSE)::promise_created;
        END IF;
    END IF;

    IF early_settlement.held_at IS NULL THEN
        INSERT INTO promise (
            workflow_execution_id, tenant_id, name, timeout_at, created_at, metadata, idempotency_key,
            timeout_outcome, timeout_value, timeout_error, created_by_sequence, notifies
        )
        VALUES (
            workflow, caller_tenant, new_name, COALESCE(new_timeout_at, moment + new_timeout), moment, new_metadata, new_key,
            deadline_outcome, deadline_value, deadline_error, number, notify <> '{}'
        )
        RETURNING promise.* INTO promise_row;
    ELSE
        INSERT INTO promise (
            workflow_execution_id, tenant_id, name, timeout_at, created_at, metadata, idempotency_key,
            timeout_outcome, timeout_value, timeout_error, created_by_sequence, resolved_by_sequence,
            resolved, outcome, value, error, resolved_at, settled_by_kind, settled_by_id, comment, notifies
        )
        VALUES (
            workflow, caller_tenant, new_name, COALESCE(new_timeout_at, moment + new_timeout), moment, new_metadata, new_key,
            deadline_outcome, deadline_value, deadline_error, number - 1, number,
            TRUE, early_settlement.held_outcome, early_settlement.held_value, early_settlement.held_error, moment,
            early_settlement.held_by_kind, early_settlement.held_by_id, early_settlement.held_comment, notify <> '{}'
        )
        RETURNING promise.* INTO promise_row;
    END IF;

    IF new_key IS NOT NULL THEN
        INSERT INTO idempotency_key AS k (tenant_id, key, promise_id, expires_at, check_at)
        VALUES (caller_tenant, new_key, promise_row.id, moment + key_ttl, moment + GREATEST(key_ttl, INTERVAL '168 hours'))
        ON CONFLICT (tenant_id, key) DO UPDATE
            SET promise_id = EXCLUDED.promise_id, expires_at = EXCLUDED.expires_at, check_at = EXCLUDED.check_at, held_at = NULL,
                held_until = NULL, held_outcome = NULL, held_value = NULL, held_error = NULL, held_by_kind = NULL,
                held_by_id = NULL, held_comment = NULL, held_receipt_id = NULL
            WHERE (k.expires_at, k.promise_id, k.held_at)
                IS NOT DISTINCT FROM (key_as_read.expires_at, key_as_read.promise_id, key_as_read.held_at);
        IF NOT FOUND THEN
            PERFORM promise_race_lost(promise_row.id);
        END IF;
    END IF;

    IF key_as_read.held_at IS NOT NULL THEN
        IF NOT receipt_end( -- an IF of its own, because an expression needs the right to each of its functions
            key_as_read.tenant_id, new_key,
            CASE WHEN early_settlement.held_by_kind = 'webhook' THEN early_settlement.held_receipt_id END,
            CASE WHEN early_settlement.held_at IS NULL THEN 'expired' ELSE 'settled' END,
            CASE WHEN early_settlement.held_at IS NOT NULL THEN promise_row.id END,
            CASE WHEN early_settlement.held_at IS NOT NULL THEN moment + key_ttl END
        ) THEN
            PERFORM promise_race_lost(promise_row.id);
        END IF;
    END IF;
    IF notify IS NOT NULL THEN
        PERFORM delivery_create(promise_row, moment, notify);
    END IF;
    INSERT INTO workflow_event_row (workflow_execution_id, sequence_number, event_type, promise_id, created_at)
    VALUES (workflow, promise_row.created_by_sequence, 'PROMISE_CREATED', promise_row.id, moment);
    RETURN ('created', promise_row, stored_external_id, FALSE, TRUE, TRUE, TRUE, early_expired IS TRUE)::promise_created;
END $$;
