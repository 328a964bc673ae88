-- Records on receipts how the early settlement of an idempotency key ended. These are the receipt of the webhook that made it, and those of other
-- webhooks that were compared with it: their events were duplicates of it, or conflicts with it.
--
-- Arguments:
--   of_tenant, given_key  the key
--   given_receipt         if new_outcome is 'settled', the receipt of the early settlement, or NULL if no webhook made it. Otherwise a receipt that
--                         the caller itself writes, or NULL.
--   new_outcome           'settled': the early settlement settled a promise. 'expired': it was discarded unused.
--   of_promise            the promise that it settled, or NULL
--   key_until             when that promise's key expires, or NULL
--
-- If the early settlement settled a promise, the compared receipts keep their outcomes and get the promise. They stay longer than the key names the
-- promise, so that no event of theirs settles another promise. If it expired unused, they expire with it, and their events are judged anew.
--
-- Returns: FALSE if the event of given_receipt was settled or held otherwise in the moment in which its early settlement expired: the caller must
-- not use that, and rolls back.
--
-- SECURITY DEFINER: a caller that creates a promise needs no right to a receipt.
--
-- Locks: the receipts' rows. The caller has locked the key's row.
-- Indexes: idx_receipt_key, receipt_pkey.
CREATE OR REPLACE FUNCTION receipt_end(
    of_tenant UUID, given_key VARCHAR, given_receipt UUID, new_outcome VARCHAR, of_promise UUID, key_until TIMESTAMPTZ
) RETURNS BOOLEAN LANGUAGE plpgsql SECURITY DEFINER AS $$
#variable_conflict use_variable
BEGIN
    UPDATE receipt r
    SET outcome = CASE WHEN new_outcome = 'expired' OR r.outcome = 'held' THEN new_outcome ELSE r.outcome END, promise_id = of_promise,
        updated_at = CLOCK_TIMESTAMP(),
        expires_at = GREATEST(r.expires_at, key_until + INTERVAL '192 hours', CLOCK_TIMESTAMP() + INTERVAL '192 hours')
    WHERE r.tenant_id = of_tenant AND r.key = given_key AND r.promise_id IS NULL AND r.outcome IN ('held', 'duplicate', 'conflict')
      AND CASE new_outcome WHEN 'settled' THEN r.outcome <> 'held' OR r.id = given_receipt ELSE r.id IS DISTINCT FROM given_receipt END;
    RETURN new_outcome <> 'settled'
        OR NOT EXISTS (SELECT FROM receipt r WHERE r.id = given_receipt AND r.promise_id IS DISTINCT FROM of_promise);
END $$;

-- The function searches the schema of the tables, and pg_temp last: otherwise a temporary table of its caller would come first. The functions of the
-- previous release create promises as promises_app, and the grants in access/ come after the last file.
DO $$
BEGIN
    EXECUTE format('ALTER FUNCTION receipt_end(UUID, VARCHAR, UUID, VARCHAR, UUID, TIMESTAMPTZ) SET search_path = %I, pg_temp', current_schema());
    REVOKE ALL ON FUNCTION receipt_end(UUID, VARCHAR, UUID, VARCHAR, UUID, TIMESTAMPTZ) FROM PUBLIC;
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'promises_app') THEN
        GRANT EXECUTE ON FUNCTION receipt_end(UUID, VARCHAR, UUID, VARCHAR, UUID, TIMESTAMPTZ) TO promises_app;
    END IF;
END $$;
