-- promise_settle, the settlement of one promise as a database function. Its small statements are planned once for each connection. The one large
-- statement that it replaces was planned for each call behind RDS Proxy, and set up again for each call everywhere. The functions of the
-- previous release do not use it and work on this schema.

-- +goose Up
SET LOCAL lock_timeout = '1s';

-- Settles a promise. migrations/functions has the current text and the contract. This version differs:
-- - It returns OUT parameters, and promise_id is NULL if the tenant has no such promise.
-- - It reads and locks with joins, and begins again if a create or an extension commits in between.
-- - An expired key names its promise only while that is pending.
-- +goose StatementBegin
CREATE FUNCTION promise_settle(
    tenant_slug VARCHAR, given_id UUID, given_key VARCHAR, new_outcome VARCHAR, new_value BYTEA, new_error TEXT,
    new_kind VARCHAR, new_by VARCHAR, new_comment VARCHAR,
    OUT promise_id UUID, OUT workflow_execution_id UUID, OUT state VARCHAR, OUT by_deadline BOOLEAN, OUT same BOOLEAN,
    OUT settled BOOLEAN, OUT overdue_since TIMESTAMPTZ
) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    number INT;
    moment TIMESTAMPTZ;
    target RECORD;
BEGIN
    LOOP
        IF given_id IS NULL THEN
            UPDATE workflow_execution w
            SET last_sequence_number = w.last_sequence_number + 1
            FROM tenant t
            JOIN idempotency_key k ON k.tenant_id = t.id
            JOIN promise p ON p.id = k.promise_id AND p.tenant_id = t.id
            WHERE t.slug = tenant_slug AND k.key = given_key
              AND NOT p.resolved AND (p.timeout_at IS NULL OR p.timeout_at > NOW()) AND w.id = p.workflow_execution_id
            RETURNING p.id, w.id, w.last_sequence_number INTO promise_id, workflow_execution_id, number;
        ELSE
            UPDATE workflow_execution w
            SET last_sequence_number = w.last_sequence_number + 1
            FROM tenant t
            JOIN promise p ON p.tenant_id = t.id
            WHERE t.slug = tenant_slug AND p.id = given_id
              AND NOT p.resolved AND (p.timeout_at IS NULL OR p.timeout_at > NOW()) AND w.id = p.workflow_execution_id
            RETURNING p.id, w.id, w.last_sequence_number INTO promise_id, workflow_execution_id, number;
        END IF;
        IF FOUND THEN
            moment := CLOCK_TIMESTAMP();
            UPDATE promise
            SET resolved = TRUE, outcome = new_outcome, value = new_value, error = new_error,
                resolved_at = moment, resolved_by_sequence = number,
                settled_by_kind = new_kind, settled_by_id = new_by, comment = new_comment
            WHERE id = promise_id AND NOT resolved AND (timeout_at IS NULL OR timeout_at > moment);
            IF NOT FOUND THEN
                PERFORM promise_race_lost(promise_id);
            END IF;
            state := new_outcome;
            settled := TRUE;
            RETURN;
        END IF;

        IF given_id IS NULL THEN
            SELECT p.id, p.workflow_execution_id, p.resolved, p.outcome, p.value, p.error, p.timeout_at, p.timeout_outcome,
                   p.settled_by_kind
            INTO target
            FROM tenant t
            JOIN idempotency_key k ON k.tenant_id = t.id
            JOIN promise p ON p.id = k.promise_id AND p.tenant_id = t.id
            WHERE t.slug = tenant_slug AND k.key = given_key
              AND (k.expires_at > NOW() OR NOT p.resolved AND (p.timeout_at IS NULL OR p.timeout_at > NOW()));
        ELSE
            SELECT p.id, p.workflow_execution_id, p.resolved, p.outcome, p.value, p.error, p.timeout_at, p.timeout_outcome,
                   p.settled_by_kind
            INTO target
            FROM tenant t
            JOIN promise p ON p.tenant_id = t.id
            WHERE t.slug = tenant_slug AND p.id = given_id;
        END IF;
        IF NOT FOUND THEN
            RETURN;
        END IF;
        IF target.resolved OR target.timeout_at <= NOW() THEN
            promise_id := target.id;
            workflow_execution_id := target.workflow_execution_id;
            settled := FALSE;
            IF NOT target.resolved THEN
                state := COALESCE(target.timeout_outcome, 'timed_out');
                by_deadline := TRUE;
                overdue_since := target.timeout_at;
            ELSE
                state := target.outcome;
                by_deadline := state = 'timed_out' OR target.settled_by_kind IS NOT DISTINCT FROM 'deadline';
                same := state = new_outcome AND target.value IS NOT DISTINCT FROM new_value
                    AND target.error IS NOT DISTINCT FROM new_error;
            END IF;
            RETURN;
        END IF;
        -- A create or an extension has committed since the update: begin again.
    END LOOP;
END $$;
-- +goose StatementEnd
