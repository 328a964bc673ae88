-- Removes a waiting call from its tenant's count. Another call may have removed it already, if it had expired.
--
-- Arguments: @tenant, a slug; @id of the call.
-- Returns: nothing.
-- Locks: the row that it deletes.
-- Indexes: tenant_wait_pkey.
DELETE FROM tenant_wait w
USING tenant t
WHERE t.slug = @tenant AND w.tenant_id = t.id AND w.id = @id::UUID
