-- Replaces the tokens of a promise's deliveries by those of a repeated create. If the promise is settled, a delivery with a new token is due at
-- once, whatever happened to the former one. A delivery whose token is the same stays as it is.
--
-- Arguments: of_promise, the promise; tokens, as that of delivery_create.
--
-- The state of a delivery says whether its promise is settled, because the settlement's transaction makes the delivery due. So the promise
-- needs no lock: of this update and a settlement, the later one sees the earlier one. A relay that is sending to the former token loses its lease, and
-- records nothing.
--
-- Locks: the deliveries' rows.
-- Indexes: delivery_promise_id_target_key.
CREATE OR REPLACE FUNCTION delivery_renew(of_promise UUID, tokens VARCHAR[]) RETURNS VOID
LANGUAGE plpgsql SECURITY DEFINER AS $$
#variable_conflict use_variable
BEGIN
    UPDATE delivery v
    SET token = tokens[v.target],
        state = CASE v.state WHEN 'waiting' THEN 'waiting' ELSE 'due' END,
        due_at = CASE v.state WHEN 'waiting' THEN NULL ELSE CLOCK_TIMESTAMP() END,
        lease = NULL, attempts = 0, ended_at = NULL, end_reason = NULL
    WHERE v.promise_id = of_promise AND v.token <> tokens[v.target];
END $$;

-- The function searches the schema of the tables, and pg_temp last: otherwise a temporary table of its caller would come first.
DO $$
BEGIN
    EXECUTE format('ALTER FUNCTION delivery_renew(UUID, VARCHAR[]) SET search_path = %I, pg_temp', current_schema());
END $$;
REVOKE ALL ON FUNCTION delivery_renew(UUID, VARCHAR[]) FROM PUBLIC;
