-- Reports whether the same event is answered with a receipt's outcome again.
CREATE OR REPLACE FUNCTION receipt_is_final(outcome VARCHAR) RETURNS BOOLEAN LANGUAGE sql IMMUTABLE AS $$
    SELECT outcome IN ('settled', 'duplicate', 'conflict', 'timed_out', 'cancelled')
$$;
