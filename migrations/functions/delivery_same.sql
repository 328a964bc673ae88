-- Reports whether the targets of an existing promise are those of a repeated create. Tokens are not compared, because an engine repeats a create
-- with a new token. A destination is compared by its name.
--
-- Arguments: of_promise, the promise; kinds and names, as those of delivery_create. The promise or the create has targets.
-- Locks: none.
-- Indexes: delivery_promise_id_target_key, destination_pkey.
CREATE OR REPLACE FUNCTION delivery_same(of_promise promise, kinds VARCHAR[], names VARCHAR[]) RETURNS BOOLEAN
LANGUAGE sql STABLE SECURITY DEFINER AS $$
    SELECT CASE
        WHEN of_promise.targets = 0 THEN FALSE
        WHEN kinds IS NULL THEN (SELECT BOOL_AND(v.by_default) FROM delivery v WHERE v.promise_id = of_promise.id)
        ELSE of_promise.targets = CARDINALITY(kinds) AND (
            SELECT BOOL_AND(
                NOT v.by_default AND d.name = COALESCE(names[v.target], kinds[v.target])
                AND kinds[v.target] IS NOT DISTINCT FROM CASE WHEN d.kind IN ('stepFunctions', 'durableExecution') THEN d.kind END
            )
            FROM delivery v
            JOIN destination d ON d.id = v.destination_id
            WHERE v.promise_id = of_promise.id
        )
    END
$$;

-- The function searches the schema of the tables, and pg_temp last: otherwise a temporary table of its caller would come first.
DO $$
BEGIN
    EXECUTE format('ALTER FUNCTION delivery_same(promise, VARCHAR[], VARCHAR[]) SET search_path = %I, pg_temp', current_schema());
END $$;
REVOKE ALL ON FUNCTION delivery_same(promise, VARCHAR[], VARCHAR[]) FROM PUBLIC;
