-- promise_settle with fewer instructions. It settles first, and reads the promise only if there was nothing to settle. It looks up the key by
-- itself. The function is replaced in place, so running calls end with the text that they began with.

-- +goose Up
-- Settles a promise. migrations/functions has the current text and the contract. In this version an expired key names its promise only while
-- that is pending.
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
    IF NOT settled AND (due IS NULL OR due > NOW()) THEN -- an extension has committed since the update
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
