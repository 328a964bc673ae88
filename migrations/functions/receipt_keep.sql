-- Records on a receipt that a body has its event, and stores the body if the receipt is to have it.
--
-- Arguments:
--   of_receipt, of_promise  the receipt, and the promise of its key, or NULL
--   new_id                  the body's id
--   new_body                the body, sealed, or NULL if another receipt has it
--
-- A body with the event of an erased promise is deleted, whichever receipt has it. Otherwise a new body takes the place of the receipt's former one,
-- and a body that is not new stays. So promise_erase finds each body by the receipts of its promise.
--
-- Returns: nothing.
--
-- Locks: the promise's row, so that a concurrent promise_erase comes before or after all of this; then the receipt's, then the bodies'.
--
-- Indexes: promise_pkey, receipt_pkey, receipt_body_pkey, receipt_body_receipt_id_key.
CREATE OR REPLACE FUNCTION receipt_keep(of_receipt UUID, of_promise UUID, new_id UUID, new_body BYTEA) RETURNS VOID LANGUAGE plpgsql AS $$
#variable_conflict use_variable
BEGIN
    PERFORM FROM promise p WHERE p.id = of_promise FOR SHARE;
    IF EXISTS (SELECT FROM promise p WHERE p.id = of_promise AND p.erased_at IS NOT NULL) THEN
        DELETE FROM receipt_body b WHERE b.id = new_id;
        RETURN;
    END IF;
    IF NOT EXISTS (SELECT FROM receipt r WHERE r.id = of_receipt AND new_id = ANY (r.body_ids)) THEN
        PERFORM FROM receipt r WHERE r.id = of_receipt FOR NO KEY UPDATE; -- the next statement sees the bodies of all ids that the row has now
        UPDATE receipt r
        SET body_ids = ARRAY(SELECT b.id FROM receipt_body b WHERE b.id = ANY (r.body_ids)) || new_id
        WHERE r.id = of_receipt;
    END IF;
    IF new_body IS NOT NULL THEN
        DELETE FROM receipt_body b WHERE b.receipt_id = of_receipt AND (b.id <> new_id OR b.expires_at <= NOW());
        DELETE FROM receipt_body b WHERE b.id = new_id AND b.receipt_id <> of_receipt;
        INSERT INTO receipt_body (id, receipt_id, sealed, expires_at)
        VALUES (new_id, of_receipt, new_body, CLOCK_TIMESTAMP() + INTERVAL '168 hours')
        ON CONFLICT DO NOTHING;
    END IF;
END $$;

REVOKE ALL ON FUNCTION receipt_keep(UUID, UUID, UUID, BYTEA) FROM PUBLIC;
