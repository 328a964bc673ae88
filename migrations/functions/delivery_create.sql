-- Creates the deliveries of a promise that is being created, one for each target, numbered from 1.
--
-- Arguments:
--   of_promise   the new promise
--   moment       the time of its creation
--   notify       three texts for each target. First the kind of completion, 'stepFunctions' or 'durableExecution', or NULL for a message. Then its
--                destination's name; NULL is the destination that has the kind as its name, which the function creates if needed. Then the task
--                token or the callback id, or NULL for a message. Three times NULL is the tenant's default destination.
--
-- If a destination does not exist, or is of another kind than its target, the function raises SQLSTATE PR003 with the destination's name in the
-- DETAIL, its kind, if it exists, in the HINT, and the target's number, counted from 0, as COLUMN. If the service has disabled it, the SQLSTATE is PR004,
-- and the HINT is the reason. Nothing is written. A destination that its tenant has paused is a target as every other, and so is a disabled one
-- that is the default. If the tenant has no default any more, the function raises promise_race_lost, and the caller retries.
--
-- SECURITY DEFINER: the function may create the destination of a kind.
--
-- Locks: the destinations' rows FOR KEY SHARE, through the foreign key, after the promise's.
--
-- Indexes: idx_destination_name, destination_pkey.
CREATE OR REPLACE FUNCTION delivery_create(of_promise promise, moment TIMESTAMPTZ, notify VARCHAR[]) RETURNS VOID
LANGUAGE plpgsql SECURITY DEFINER AS $$
#variable_conflict use_variable
DECLARE
    first_state VARCHAR := CASE WHEN of_promise.resolved THEN 'due' ELSE 'waiting' END;
    first_due TIMESTAMPTZ := CASE WHEN of_promise.resolved THEN moment END;
    found_row destination;
    target_kind VARCHAR;
    target_name VARCHAR;
BEGIN
    FOR n IN 1 .. CARDINALITY(notify) / 3 LOOP
        target_kind := notify[3 * n - 2];
        target_name := notify[3 * n - 1];
        IF target_kind IS NULL AND target_name IS NULL THEN
            INSERT INTO delivery (tenant_id, promise_id, target, destination_id, by_default, state, due_at, created_at)
            SELECT t.id, of_promise.id, n, t.default_destination_id, TRUE, first_state, first_due, moment
            FROM tenant t
            WHERE t.id = of_promise.tenant_id AND t.default_destination_id IS NOT NULL;
            IF NOT FOUND THEN -- a concurrent call has deleted the default
                PERFORM promise_race_lost(of_promise.id);
            END IF;
            CONTINUE;
        END IF;
        SELECT d.* INTO found_row
        FROM destination d
        WHERE d.tenant_id = of_promise.tenant_id AND d.name = COALESCE(target_name, target_kind) AND d.deleted_at IS NULL;
        IF NOT FOUND AND target_name IS NULL THEN
            INSERT INTO destination (tenant_id, name, kind)
            SELECT of_promise.tenant_id, needed.kind, needed.kind
            FROM (
                SELECT DISTINCT notify[3 * i - 2] AS kind
                FROM GENERATE_SERIES(n, CARDINALITY(notify) / 3) AS i
                WHERE notify[3 * i - 1] IS NULL AND notify[3 * i - 2] IS NOT NULL
            ) AS needed
            ORDER BY needed.kind -- the same order in each call, so that no two deadlock
            ON CONFLICT (tenant_id, name) WHERE deleted_at IS NULL DO NOTHING;
            SELECT d.* INTO found_row
            FROM destination d
            WHERE d.tenant_id = of_promise.tenant_id AND d.name = target_kind AND d.deleted_at IS NULL;
            IF NOT FOUND THEN -- a concurrent call has deleted it
                PERFORM promise_race_lost(of_promise.id);
            END IF;
        END IF;
        IF found_row.id IS NULL
            OR target_kind IS DISTINCT FROM (CASE WHEN found_row.kind IN ('stepFunctions', 'durableExecution') THEN found_row.kind END)
        THEN
            RAISE EXCEPTION 'no destination % for this target', target_name
                USING ERRCODE = 'PR003', DETAIL = target_name, HINT = COALESCE(found_row.kind, ''), COLUMN = (n - 1)::TEXT;
        END IF;
        IF found_row.disabled_because IS NOT NULL THEN
            RAISE EXCEPTION 'destination % is disabled', found_row.name
                USING ERRCODE = 'PR004', DETAIL = found_row.name, HINT = found_row.disabled_because, COLUMN = (n - 1)::TEXT;
        END IF;
        INSERT INTO delivery (tenant_id, promise_id, target, destination_id, token, state, due_at, created_at)
        VALUES (of_promise.tenant_id, of_promise.id, n, found_row.id, notify[3 * n], first_state, first_due, moment);
    END LOOP;
END $$;

-- The function searches the schema of the tables, and pg_temp last: otherwise a temporary table of its caller would come first.
DO $$
BEGIN
    EXECUTE format('ALTER FUNCTION delivery_create(promise, TIMESTAMPTZ, VARCHAR[]) SET search_path = %I, pg_temp', current_schema());
END $$;
REVOKE ALL ON FUNCTION delivery_create(promise, TIMESTAMPTZ, VARCHAR[]) FROM PUBLIC;
