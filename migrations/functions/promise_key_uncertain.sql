-- Reports whether only an unrecorded deadline ends a key at a moment. An extension that has not committed may keep the promise pending, and with
-- it the key. The result may be NULL instead of FALSE. The planner inlines the function.
CREATE OR REPLACE FUNCTION promise_key_uncertain(expires_at TIMESTAMPTZ, resolved BOOLEAN, timeout_at TIMESTAMPTZ, moment TIMESTAMPTZ)
RETURNS BOOLEAN LANGUAGE sql IMMUTABLE AS
    $$ SELECT NOT resolved AND expires_at <= moment AND timeout_at <= moment $$;
