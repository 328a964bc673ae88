-- Settles a pending promise of a tenant, or reports why it is not pending.
--
-- Arguments:
--   tenant_slug            the tenant
--   given_id, given_key    the promise: its id or, if given_id is NULL, its idempotency key
--   new_outcome            'resolved', 'rejected' or 'cancelled'
--   new_value, new_error   the settlement's value, or its error; the other is NULL, and both may be if it is cancelled
--   new_kind, new_by       the kind and the id of the caller; the id may be NULL
--   new_comment            a comment, or NULL
--
-- Returns NULL if the tenant is unknown or suspended, if it has no such promise, or if the key names no promise any more. Otherwise:
--   promise_id             the promise
--   workflow_execution_id  its workflow execution
--   state                  the promise's state after the call
--   by_deadline            TRUE if the deadline settled the promise
--   same                   TRUE if it was already settled with the same outcome, value and error, and has not been erased
--   settled                TRUE if this call settled it
--   overdue_since          NULL. The functions of an earlier release read it.
--
-- The function settles first, and reads the promise only if nothing was settled. The settled row is also the event of the settlement.
--
-- Locks: the workflow execution's row, whose update hands out the event's number, then the promise's row. The function first reads without a
-- lock whether the promise is pending. Under the first lock it reads the clock, and by that time it judges the deadline again.
--
-- Unrecorded deadlines: if nothing has recorded a deadline that has passed, a settlement or an extension in time may not have committed yet. So
-- the function calls promise_await_settlements and reads the promise again. This second look is final: a later settlement or extension reads a
-- later clock, and is late. If an extension has moved the deadline beyond the call's time, the function raises promise_race_lost.
--
-- Races: if another call settles the promise while this one waits for the lock, or extends it while this one reads, the function raises
-- promise_race_lost. Everything is rolled back, and the caller retries with the id in the error's DETAIL, because the key may name another
-- promise by then. No create can take a key over while its promise is pending. If the promise is not pending, the key must still name it
-- after the promise was read.
--
-- Indexes: promise_pkey, idempotency_key_pkey, workflow_execution_pkey.
CREATE OR REPLACE FUNCTION promise_settle(
    tenant_slug VARCHAR, given_id UUID, given_key VARCHAR, new_outcome VARCHAR, new_value BYTEA, new_error TEXT,
    new_kind VARCHAR, new_by VARCHAR, new_comment VARCHAR
) RETURNS settle_result LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
    caller_tenant UUID;
    target_id UUID := given_id;
    key_until TIMESTAMPTZ; -- the key's expires_at; NULL if the call has an id
    workflow_id UUID;
    number INT;
    moment TIMESTAMPTZ;
    already_settled BOOLEAN;
    settled_at TIMESTAMPTZ;
    state VARCHAR;
    deadline TIMESTAMPTZ;
    deadline_outcome VARCHAR; -- the default outcome, or NULL
    settled_by VARCHAR;
    stored_value BYTEA;
    stored_error TEXT;
    erased_since TIMESTAMPTZ;
    settlements_awaited BOOLEAN := FALSE;
BEGIN
    SELECT id INTO caller_tenant FROM tenant WHERE slug = tenant_slug AND suspended_at IS NULL;
    IF target_id IS NULL THEN
        SELECT promise_id, expires_at INTO target_id, key_until FROM idempotency_key WHERE tenant_id = caller_tenant AND key = given_key;
    END IF;

    UPDATE workflow_execution SET last_sequence_number = last_sequence_number + 1
    WHERE id = (
        SELECT p.workflow_execution_id
        FROM promise p
        WHERE p.id = target_id AND p.tenant_id = caller_tenant AND NOT p.resolved
          AND (p.timeout_at IS NULL OR p.timeout_at > NOW())
    )
    RETURNING id, last_sequence_number INTO workflow_id, number;
    IF FOUND THEN
        moment := CLOCK_TIMESTAMP();
        UPDATE promise
        SET resolved = TRUE, outcome = new_outcome, value = new_value, error = new_error,
            resolved_at = moment, resolved_by_sequence = number,
            settled_by_kind = new_kind, settled_by_id = new_by, comment = new_comment
        WHERE id = target_id AND NOT resolved AND (timeout_at IS NULL OR timeout_at > moment);
        IF NOT FOUND THEN
            PERFORM promise_race_lost(target_id);
        END IF;
        RETURN (target_id, workflow_id, new_outcome, FALSE, FALSE, TRUE, NULL)::settle_result;
    END IF;

    LOOP
        SELECT p.workflow_execution_id, p.resolved, p.resolved_at, p.outcome, p.timeout_at, p.timeout_outcome, p.settled_by_kind,
               p.value, p.error, p.erased_at
        INTO workflow_id, already_settled, settled_at, state, deadline, deadline_outcome, settled_by, stored_value, stored_error, erased_since
        FROM promise p
        WHERE p.id = target_id AND p.tenant_id = caller_tenant;
        IF NOT FOUND THEN
            RETURN NULL;
        END IF;
        IF NOT already_settled AND (deadline IS NULL OR deadline > NOW()) THEN -- an extension has committed since the update
            PERFORM promise_race_lost(target_id);
        END IF;
        EXIT WHEN already_settled OR settlements_awaited;
        PERFORM promise_await_settlements(ARRAY[target_id], ARRAY[workflow_id]);
        settlements_awaited := TRUE;
    END LOOP;
    moment := CLOCK_TIMESTAMP(); -- a variable: a volatile argument would keep promise_key_names from being inlined
    IF key_until IS NOT NULL AND NOT promise_key_names(key_until, already_settled, settled_at, deadline, moment) THEN
        RETURN NULL;
    END IF;
    IF already_settled THEN
        RETURN (
            target_id, workflow_id, state, promise_by_deadline(state, settled_by),
            erased_since IS NULL AND state = new_outcome AND stored_value IS NOT DISTINCT FROM new_value
                AND stored_error IS NOT DISTINCT FROM new_error,
            FALSE, NULL
        )::settle_result;
    END IF;
    RETURN (target_id, workflow_id, promise_deadline_outcome(deadline_outcome), TRUE, FALSE, FALSE, NULL)::settle_result;
END $$;
