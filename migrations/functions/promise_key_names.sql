-- Reports whether a key names its promise at a moment: while it is live, and for 168 hours after the settlement. resolved_at is NULL
-- for some promises that were adopted from a legacy database: they were settled long ago. The planner inlines the function.
CREATE OR REPLACE FUNCTION promise_key_names(
    expires_at TIMESTAMPTZ, resolved BOOLEAN, resolved_at TIMESTAMPTZ, timeout_at TIMESTAMPTZ, moment TIMESTAMPTZ
) RETURNS BOOLEAN LANGUAGE sql STABLE AS $$
    SELECT expires_at > moment
        OR CASE WHEN resolved THEN COALESCE(resolved_at, '-infinity') ELSE COALESCE(timeout_at, 'infinity') END > moment - INTERVAL '168 hours'
$$;
