-- Reads a receipt, and the body that is kept for a replay.
--
-- Arguments: @tenant, a slug; @id.
-- Returns: one row; no row if the tenant has no such receipt, or is unknown or suspended. body_id and sealed are NULL if no body is kept.
-- Locks: none.
-- Indexes: receipt_pkey, receipt_body_receipt_id_key.
SELECT
    r.id, r.source_id, r.source_name AS source, r.event, r.item, r.rule, r.key, r.outcome, r.promise_id, r.reason, r.received_at, r.updated_at, r.expires_at,
    b.id IS NOT NULL AS body_kept, b.id AS body_id, b.sealed
FROM tenant t
JOIN receipt r ON r.tenant_id = t.id AND r.id = @id::UUID
LEFT JOIN receipt_body b ON b.receipt_id = r.id AND b.expires_at > NOW()
WHERE t.slug = @tenant AND t.suspended_at IS NULL
