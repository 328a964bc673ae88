-- Returns the outcome of a promise whose deadline has passed: its default outcome, or timed_out. The planner inlines the function.
CREATE OR REPLACE FUNCTION promise_deadline_outcome(timeout_outcome VARCHAR) RETURNS VARCHAR LANGUAGE sql IMMUTABLE AS
    $$ SELECT COALESCE(timeout_outcome, 'timed_out') $$;
