-- Replaces the tokens of a promise's deliveries by those of a repeated create, because an engine repeats a create with a new token. If the promise
-- is settled, a delivery with a new token is due at once, whatever happened to the former one. A delivery whose token is the same stays as it is.
--
-- Arguments: of_promise, the promise; notify, as that of delivery_create, or NULL for the default destination. The promise or the create has
-- targets.
--
-- If the promise has other targets, the function raises SQLSTATE PR005 with the promise's id in the DETAIL, and changes nothing. Destinations are
-- compared by their names, in the order of the targets.
--
-- If the destination of a new token was deleted, the delivery moves to the destination that has its name now, because the deliveries to a deleted
-- one end. If there is none, the function creates that of a kind, or raises SQLSTATE PR003 as delivery_create does, and changes nothing.
--
-- The state of a delivery says whether its promise is settled, because the settlement's transaction makes the delivery due. So the promise
-- needs no lock: of this update and a settlement, the later one sees the earlier one. A relay that is sending to the former token loses its lease, and
-- records nothing.
--
-- SECURITY DEFINER: only the relay may read or write a token.
--
-- Locks: the deliveries' rows, and the destinations' FOR KEY SHARE if one was deleted.
-- Indexes: delivery_promise_id_target_key, destination_pkey, delivery_pkey, idx_destination_name.
CREATE OR REPLACE FUNCTION delivery_renew(of_promise promise, notify VARCHAR[]) RETURNS VOID
LANGUAGE plpgsql SECURITY DEFINER AS $$
#variable_conflict use_variable
DECLARE
    same BOOLEAN;
    orphan RECORD;
BEGIN
    SELECT CASE
        WHEN notify IS NULL THEN BOOL_AND(v.by_default)
        ELSE COUNT(*) * 3 = CARDINALITY(notify) AND COALESCE(BOOL_AND(
            NOT v.by_default AND d.name = COALESCE(notify[3 * v.target - 1], notify[3 * v.target - 2])
            AND notify[3 * v.target - 2] IS NOT DISTINCT FROM CASE WHEN d.kind IN ('stepFunctions', 'durableExecution') THEN d.kind END
        ), TRUE)
    END
    INTO same
    FROM delivery v
    JOIN destination d ON d.id = v.destination_id
    WHERE v.promise_id = of_promise.id;
    IF same IS NOT TRUE THEN
        RAISE EXCEPTION 'promise % has other targets', of_promise.id USING ERRCODE = 'PR005', DETAIL = of_promise.id;
    END IF;
    FOR orphan IN
        SELECT v.target, d.name, d.kind
        FROM delivery v
        JOIN destination d ON d.id = v.destination_id
        WHERE v.promise_id = of_promise.id AND v.token <> notify[3 * v.target] AND d.deleted_at IS NOT NULL
        ORDER BY d.name, v.target
    LOOP
        IF notify[3 * orphan.target - 1] IS NULL THEN
            INSERT INTO destination (tenant_id, name, kind) VALUES (of_promise.tenant_id, orphan.kind, orphan.kind)
            ON CONFLICT (tenant_id, name) WHERE deleted_at IS NULL DO NOTHING;
        END IF;
        PERFORM FROM destination d
        WHERE d.tenant_id = of_promise.tenant_id AND d.name = orphan.name AND d.kind = orphan.kind AND d.deleted_at IS NULL;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'no destination % for this target', orphan.name
                USING ERRCODE = 'PR003', DETAIL = orphan.name, HINT = '', COLUMN = (orphan.target - 1)::TEXT;
        END IF;
    END LOOP;
    -- Each row is updated once: after a second update of one transaction, the foreign key would lock the promise behind its deliveries.
    UPDATE delivery v
    SET token = notify[3 * v.target],
        destination_id = COALESCE((
            SELECT d.id
            FROM destination former
            JOIN destination d ON d.tenant_id = former.tenant_id AND d.name = former.name AND d.kind = former.kind AND d.deleted_at IS NULL
            WHERE former.id = v.destination_id
        ), v.destination_id),
        state = CASE v.state WHEN 'waiting' THEN 'waiting' ELSE 'due' END,
        due_at = CASE v.state WHEN 'waiting' THEN NULL ELSE CLOCK_TIMESTAMP() END,
        lease = NULL, attempts = 0, ended_at = NULL, end_reason = NULL
    WHERE v.promise_id = of_promise.id AND v.token <> notify[3 * v.target];
END $$;

-- The function searches the schema of the tables, and pg_temp last: otherwise a temporary table of its caller would come first.
DO $$
BEGIN
    EXECUTE format('ALTER FUNCTION delivery_renew(promise, VARCHAR[]) SET search_path = %I, pg_temp', current_schema());
END $$;
REVOKE ALL ON FUNCTION delivery_renew(promise, VARCHAR[]) FROM PUBLIC;
