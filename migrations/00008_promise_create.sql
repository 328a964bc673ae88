-- promise_create, the creation of a promise as a database function, for the reasons that 00007 gives. The functions of the previous release do
-- not use it and work on this schema.

-- +goose Up
SET LOCAL lock_timeout = '1s';

-- Creates a promise. migrations/functions has the current text and the contract. This version differs:
-- - It returns OUT parameters.
-- - It has no external id and no quotas. what is NULL if the tenant is unknown or the workflow execution belongs to another
--   tenant.
-- - A key has a promise or an early settlement, not both, and one expiry for either.
-- +goose StatementBegin
CREATE FUNCTION promise_create(
    tenant_slug VARCHAR, workflow UUID, new_name VARCHAR, new_key VARCHAR, key_ttl INTERVAL, new_timeout INTERVAL,
    new_timeout_at TIMESTAMPTZ, new_metadata JSONB, deadline_outcome VARCHAR, deadline_value BYTEA, deadline_error TEXT,
    waited BOOLEAN,
    OUT what VARCHAR, OUT it promise, OUT doubtful BOOLEAN, OUT same_key BOOLEAN, OUT same_metadata BOOLEAN,
    OUT same_on_timeout BOOLEAN, OUT lost_hold BOOLEAN
) LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
    caller UUID;
    number INT;
    moment TIMESTAMPTZ;
    seen RECORD;
    key_seen idempotency_key;
    hold idempotency_key; -- the row whose early settlement settles the new promise
BEGIN
    doubtful := FALSE;
    same_key := TRUE;
    same_metadata := TRUE;
    same_on_timeout := TRUE;
    lost_hold := FALSE;

    INSERT INTO workflow_execution AS w (id, tenant_id, last_sequence_number)
    SELECT workflow, t.id, 1
    FROM tenant t
    WHERE t.slug = tenant_slug
      AND NOT EXISTS (SELECT FROM workflow_execution o WHERE o.id = workflow AND o.tenant_id <> t.id)
      AND NOT EXISTS (SELECT FROM promise p WHERE p.workflow_execution_id = workflow AND p.name = new_name)
      AND NOT EXISTS (SELECT FROM idempotency_key k WHERE k.tenant_id = t.id AND k.key = new_key)
    ON CONFLICT (id) DO UPDATE SET last_sequence_number = w.last_sequence_number + 1 WHERE w.tenant_id = EXCLUDED.tenant_id
    RETURNING w.tenant_id, w.last_sequence_number, CLOCK_TIMESTAMP() INTO caller, number, moment;

    IF NOT FOUND THEN
        SELECT
            t.id AS caller, p AS existing, q AS holder, k AS key, p.id AS existing_id,
            p.idempotency_key IS NOT DISTINCT FROM new_key OR COALESCE(k.promise_id = p.id, FALSE) AS same_key,
            p.metadata IS NOT DISTINCT FROM new_metadata AS same_metadata,
            (p.timeout_outcome, p.timeout_value, p.timeout_error)
                IS NOT DISTINCT FROM (deadline_outcome, deadline_value, deadline_error) AS same_on_timeout,
            q.id IS NOT NULL
                AND (k.expires_at > NOW() OR NOT q.resolved AND (q.timeout_at IS NULL OR q.timeout_at > NOW())) AS live,
            COALESCE(NOT q.resolved AND k.expires_at <= NOW() AND q.timeout_at <= NOW() AND NOT waited, FALSE) AS doubtful,
            k.held_at IS NOT NULL AS held,
            k.held_at IS NOT NULL AND k.expires_at > NOW() AND (new_timeout_at IS NULL OR new_timeout_at > k.held_at) AS settles
        INTO seen
        FROM tenant t
        LEFT JOIN promise p ON p.workflow_execution_id = workflow AND p.name = new_name
        LEFT JOIN idempotency_key k ON k.tenant_id = t.id AND k.key = new_key
        LEFT JOIN promise q ON q.id = k.promise_id
        WHERE t.slug = tenant_slug
          AND NOT EXISTS (SELECT FROM workflow_execution w WHERE w.id = workflow AND w.tenant_id <> t.id);
        IF NOT FOUND THEN
            RETURN;
        END IF;
        IF seen.existing_id IS NOT NULL THEN
            what := 'existing';
            it := seen.existing;
            same_key := seen.same_key;
            same_metadata := seen.same_metadata;
            same_on_timeout := seen.same_on_timeout;
            RETURN;
        END IF;
        IF seen.live OR seen.doubtful THEN
            what := 'key_holder';
            it := seen.holder;
            it.value := NULL;
            it.error := NULL;
            it.metadata := NULL;
            it.timeout_value := NULL;
            it.timeout_error := NULL;
            doubtful := seen.doubtful;
            RETURN;
        END IF;
        key_seen := seen.key;
        IF seen.settles THEN
            hold := seen.key;
        END IF;
        lost_hold := seen.held AND NOT seen.settles;

        INSERT INTO workflow_execution AS w (id, tenant_id, last_sequence_number)
        VALUES (workflow, seen.caller, CASE WHEN seen.settles THEN 2 ELSE 1 END)
        ON CONFLICT (id) DO UPDATE SET last_sequence_number = w.last_sequence_number + EXCLUDED.last_sequence_number
            WHERE w.tenant_id = EXCLUDED.tenant_id
        RETURNING w.tenant_id, w.last_sequence_number, CLOCK_TIMESTAMP() INTO caller, number, moment;
        IF NOT FOUND THEN
            RETURN;
        END IF;
    END IF;

    IF hold.held_at IS NULL THEN
        INSERT INTO promise (
            workflow_execution_id, tenant_id, name, timeout_at, created_at, metadata, idempotency_key,
            timeout_outcome, timeout_value, timeout_error, created_by_sequence
        )
        VALUES (
            workflow, caller, new_name, COALESCE(new_timeout_at, moment + new_timeout), moment, new_metadata, new_key,
            deadline_outcome, deadline_value, deadline_error, number
        )
        RETURNING promise.* INTO it;
    ELSE
        INSERT INTO promise (
            workflow_execution_id, tenant_id, name, timeout_at, created_at, metadata, idempotency_key,
            timeout_outcome, timeout_value, timeout_error, created_by_sequence, resolved_by_sequence,
            resolved, outcome, value, error, resolved_at, settled_by_kind, settled_by_id, comment
        )
        VALUES (
            workflow, caller, new_name, COALESCE(new_timeout_at, moment + new_timeout), moment, new_metadata, new_key,
            deadline_outcome, deadline_value, deadline_error, number - 1, number,
            TRUE, hold.held_outcome, hold.held_value, hold.held_error, moment, hold.held_by_kind, hold.held_by_id, hold.held_comment
        )
        RETURNING promise.* INTO it;
    END IF;

    IF new_key IS NOT NULL THEN
        INSERT INTO idempotency_key AS k (tenant_id, key, promise_id, expires_at)
        VALUES (caller, new_key, it.id, moment + key_ttl)
        ON CONFLICT (tenant_id, key) DO UPDATE
            SET promise_id = EXCLUDED.promise_id, expires_at = EXCLUDED.expires_at, held_at = NULL, held_outcome = NULL,
                held_value = NULL, held_error = NULL, held_by_kind = NULL, held_by_id = NULL, held_comment = NULL
            WHERE (k.expires_at, k.promise_id, k.held_at)
                IS NOT DISTINCT FROM (key_seen.expires_at, key_seen.promise_id, key_seen.held_at);
        IF NOT FOUND THEN
            PERFORM promise_race_lost(it.id);
        END IF;
    END IF;

    INSERT INTO workflow_event_row (workflow_execution_id, sequence_number, event_type, promise_id, created_at)
    VALUES (workflow, it.created_by_sequence, 'PROMISE_CREATED', it.id, moment);
    what := 'created';
END $$;
-- +goose StatementEnd

-- In promise_settle, too, a name means the variable, whatever columns adopted tables have.
-- +goose StatementBegin
DO $$
BEGIN
    EXECUTE REPLACE(pg_get_functiondef('promise_settle'::REGPROC), '#variable_conflict use_column', '#variable_conflict use_variable');
END $$;
-- +goose StatementEnd
