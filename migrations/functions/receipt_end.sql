-- Records on a receipt what became of the early settlement of its webhook.
--
-- Arguments: given_receipt; new_outcome, 'settled', or 'expired' if the settlement was discarded unused; of_promise, the promise that it settled, or
-- NULL; key_until, when that promise's idempotency key expires, or NULL. A settled receipt stays longer than the key names the promise, so that the
-- same event never settles another promise.
--
-- Returns: FALSE if the event was settled otherwise in the moment in which its early settlement expired: the caller must not use that. Then nothing
-- was written.
--
-- SECURITY DEFINER: a caller that creates a promise needs no right to a receipt.
--
-- Locks: the receipt's row.
-- Indexes: receipt_pkey.
CREATE OR REPLACE FUNCTION receipt_end(given_receipt UUID, new_outcome VARCHAR, of_promise UUID, key_until TIMESTAMPTZ) RETURNS BOOLEAN
LANGUAGE plpgsql SECURITY DEFINER AS $$
#variable_conflict use_variable
BEGIN
    UPDATE receipt r
    SET outcome = new_outcome, promise_id = of_promise, updated_at = CLOCK_TIMESTAMP(),
        expires_at = GREATEST(r.expires_at, key_until + INTERVAL '192 hours', CLOCK_TIMESTAMP() + INTERVAL '192 hours')
    WHERE r.id = given_receipt
      AND CASE new_outcome WHEN 'settled' THEN NOT receipt_is_final(r.outcome) ELSE r.outcome = 'held' END;
    RETURN FOUND OR new_outcome <> 'settled' OR NOT EXISTS (SELECT FROM receipt r WHERE r.id = given_receipt);
END $$;

-- The function searches the schema of the tables, and pg_temp last: otherwise a temporary table of its caller would come first.
DO $$
BEGIN
    EXECUTE format('ALTER FUNCTION receipt_end(UUID, VARCHAR, UUID, TIMESTAMPTZ) SET search_path = %I, pg_temp', current_schema());
END $$;
REVOKE ALL ON FUNCTION receipt_end(UUID, VARCHAR, UUID, TIMESTAMPTZ) FROM PUBLIC;
