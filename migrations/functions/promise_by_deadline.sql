-- Reports whether the deadline settled a promise. No caller settles with timed_out, and some promises have no settled_by_kind. The planner
-- inlines the function.
CREATE OR REPLACE FUNCTION promise_by_deadline(outcome VARCHAR, settled_by_kind VARCHAR) RETURNS BOOLEAN LANGUAGE sql IMMUTABLE AS
    $$ SELECT outcome = 'timed_out' OR settled_by_kind IS NOT DISTINCT FROM 'deadline' $$;
