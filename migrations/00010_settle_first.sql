-- promise_settle, cheaper and shorter. It settles first, and looks at the promise only where there was nothing to settle; a
-- key is looked up by itself. It stays the same function, so that calls of it that are under way end as they began.

-- +goose Up
-- Settles a promise of the tenant of that slug, by id or, where that is NULL, by idempotency key, and returns what its state
-- is and what this call did: settled it, or found that it was, or that its deadline had passed (overdue_since, where nothing has
-- recorded that yet). It is NULL where there is no such promise for this tenant. The settled row is its own event.
--
-- Locks: the workflow execution's row, which hands out the number, then the promise's. That the promise is pending is
-- first read without a lock. The deadline is judged again with the lock held, by a clock read under it. Whoever waited for
-- the lock in vain finds nothing left to settle: promise_race_lost then rolls everything back, and the call is to be
-- repeated, by the id that it names: the key may belong to another promise by then.
--
-- A key that was looked up cannot pass on while its promise is pending. Where the promise is not, the key must still be in force
-- when that has been read.
--
-- promise_pkey, idempotency_key_pkey, workflow_execution_pkey.
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION promise_settle(
    tenant_slug VARCHAR, given_id UUID, given_key VARCHAR, new_outcome VARCHAR, new_value BYTEA, new_error TEXT,
    new_kind VARCHAR, new_by VARCHAR, new_comment VARCHAR
) RETURNS promise_settlement LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
    caller UUID;
    target UUID := given_id;
    key_until TIMESTAMPTZ;
    workflow UUID;
    number INT;
    moment TIMESTAMPTZ;
    settled BOOLEAN;
    state VARCHAR;
    due TIMESTAMPTZ;
    due_state VARCHAR;
    kind VARCHAR;
    old_value BYTEA;
    old_error TEXT;
BEGIN
    SELECT id INTO caller FROM tenant WHERE slug = tenant_slug;
    IF target IS NULL THEN
        SELECT promise_id, expires_at INTO target, key_until FROM idempotency_key WHERE tenant_id = caller AND key = given_key;
    END IF;

    UPDATE workflow_execution SET last_sequence_number = last_sequence_number + 1
    WHERE id = (
        SELECT p.workflow_execution_id
        FROM promise p
        WHERE p.id = target AND p.tenant_id = caller AND NOT p.resolved AND (p.timeout_at IS NULL OR p.timeout_at > NOW())
    )
    RETURNING id, last_sequence_number INTO workflow, number;
    IF FOUND THEN
        moment := CLOCK_TIMESTAMP();
        UPDATE promise
        SET resolved = TRUE, outcome = new_outcome, value = new_value, error = new_error,
            resolved_at = moment, resolved_by_sequence = number,
            settled_by_kind = new_kind, settled_by_id = new_by, comment = new_comment
        WHERE id = target AND NOT resolved AND (timeout_at IS NULL OR timeout_at > moment);
        IF NOT FOUND THEN
            PERFORM promise_race_lost(target);
        END IF;
        RETURN (target, workflow, new_outcome, FALSE, FALSE, TRUE, NULL)::promise_settlement;
    END IF;

    SELECT p.workflow_execution_id, p.resolved, p.outcome, p.timeout_at, p.timeout_outcome, p.settled_by_kind, p.value, p.error
    INTO workflow, settled, state, due, due_state, kind, old_value, old_error
    FROM promise p
    WHERE p.id = target AND p.tenant_id = caller;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    IF NOT settled AND (due IS NULL OR due > NOW()) THEN -- it has been extended since
        PERFORM promise_race_lost(target);
    END IF;
    IF key_until <= CLOCK_TIMESTAMP() THEN
        RETURN NULL;
    END IF;
    IF settled THEN
        RETURN (
            target, workflow, state, state = 'timed_out' OR kind IS NOT DISTINCT FROM 'deadline',
            state = new_outcome AND old_value IS NOT DISTINCT FROM new_value AND old_error IS NOT DISTINCT FROM new_error,
            FALSE, NULL
        )::promise_settlement;
    END IF;
    RETURN (target, workflow, COALESCE(due_state, 'timed_out'), TRUE, FALSE, FALSE, due)::promise_settlement;
END $$;
-- +goose StatementEnd
