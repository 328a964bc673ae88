-- The settlement of one promise, as a function: its four small statements are planned once for each connection, where the
-- one large statement that they replace was planned for each call behind RDS Proxy, and set up anew for each call
-- everywhere. The functions of the release before do not use it and work on this schema.

-- +goose Up
SET LOCAL lock_timeout = '1s';

-- Settles a promise of the tenant of that slug, by id or, where that is NULL, by idempotency key, and returns it as it was
-- found and what this call did; promise_id is NULL where there is no such promise for this tenant. The settled row is its own
-- event.
--
-- Locks: the workflow execution's row, which hands out the number, then the promise's. What is found is read without a
-- lock, which is final unless it is pending. The deadline is judged again with the lock held, by a clock read under it.
-- Whoever waited for the lock in vain finds nothing left to settle: promise_race_lost then rolls everything back, and the
-- call is to be repeated, by the id that it names: the key may belong to another promise by then.
--
-- promise_pkey, idempotency_key_pkey, workflow_execution_pkey.
-- +goose StatementBegin
CREATE FUNCTION promise_settle(
    tenant_slug VARCHAR, given_id UUID, given_key VARCHAR, new_outcome VARCHAR, new_value BYTEA, new_error TEXT,
    new_kind VARCHAR, new_by VARCHAR, new_comment VARCHAR,
    OUT promise_id UUID, OUT workflow_execution_id UUID, OUT state VARCHAR, OUT by_deadline BOOLEAN, OUT same BOOLEAN,
    OUT settled BOOLEAN, OUT overdue BOOLEAN
) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    target RECORD;
    number INT;
    moment TIMESTAMPTZ;
BEGIN
    IF given_id IS NULL THEN
        SELECT p.id, p.workflow_execution_id, p.resolved, p.outcome, p.value, p.error, p.timeout_at, p.timeout_outcome, p.settled_by_kind
        INTO target
        FROM tenant t
        JOIN idempotency_key k ON k.tenant_id = t.id
        JOIN promise p ON p.id = k.promise_id AND p.tenant_id = t.id
        WHERE t.slug = tenant_slug AND k.key = given_key
          AND (k.expires_at > NOW() OR NOT p.resolved AND (p.timeout_at IS NULL OR p.timeout_at > NOW()));
    ELSE
        SELECT p.id, p.workflow_execution_id, p.resolved, p.outcome, p.value, p.error, p.timeout_at, p.timeout_outcome, p.settled_by_kind
        INTO target
        FROM tenant t
        JOIN promise p ON p.tenant_id = t.id
        WHERE t.slug = tenant_slug AND p.id = given_id;
    END IF;
    IF target.id IS NULL THEN
        RETURN;
    END IF;

    promise_id := target.id;
    workflow_execution_id := target.workflow_execution_id;
    state := target.outcome;
    by_deadline := FALSE;
    same := FALSE;
    settled := FALSE;
    overdue := FALSE;
    IF target.resolved THEN
        by_deadline := target.outcome = 'timed_out' OR target.settled_by_kind IS NOT DISTINCT FROM 'deadline';
        same := target.outcome = new_outcome AND target.value IS NOT DISTINCT FROM new_value
            AND target.error IS NOT DISTINCT FROM new_error;
        RETURN;
    END IF;
    IF target.timeout_at <= NOW() THEN
        state := COALESCE(target.timeout_outcome, 'timed_out');
        by_deadline := TRUE;
        overdue := TRUE;
        RETURN;
    END IF;

    state := 'pending';
    UPDATE workflow_execution
    SET last_sequence_number = last_sequence_number + 1
    WHERE id = target.workflow_execution_id
    RETURNING last_sequence_number INTO number;
    IF NOT FOUND THEN -- it was deleted, with its promises
        RETURN;
    END IF;
    moment := CLOCK_TIMESTAMP();
    UPDATE promise
    SET resolved = TRUE, outcome = new_outcome, value = new_value, error = new_error,
        resolved_at = moment, resolved_by_sequence = number,
        settled_by_kind = new_kind, settled_by_id = new_by, comment = new_comment
    WHERE id = target.id AND NOT resolved AND (timeout_at IS NULL OR timeout_at > moment);
    IF NOT FOUND THEN
        PERFORM promise_race_lost(target.id);
    END IF;
    settled := TRUE;
END $$;
-- +goose StatementEnd
