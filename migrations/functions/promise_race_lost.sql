-- Raises PR001 in a statement that took a sequence number and then lost a race. The statement is rolled back, the number with it, and the
-- caller repeats it for the promise that DETAIL names.
CREATE OR REPLACE FUNCTION promise_race_lost(promise_id UUID) RETURNS UUID LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'another transaction came first' USING ERRCODE = 'PR001', DETAIL = promise_id;
END $$;
