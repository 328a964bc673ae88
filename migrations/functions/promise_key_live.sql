-- Reports whether a key belongs to its promise at a moment: until the key expires, and for as long as the promise is pending. No create may
-- take over such a key. The planner inlines the function.
CREATE OR REPLACE FUNCTION promise_key_live(expires_at TIMESTAMPTZ, resolved BOOLEAN, timeout_at TIMESTAMPTZ, moment TIMESTAMPTZ)
RETURNS BOOLEAN LANGUAGE sql STABLE AS
    $$ SELECT expires_at > moment OR NOT resolved AND (timeout_at IS NULL OR timeout_at > moment) $$;
