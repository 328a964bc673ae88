-- Removes a test from its tenant's count.
--
-- Arguments: @id of the lease.
-- Returns: nothing.
-- Locks: the row that it deletes.
-- Indexes: delivery_lease_pkey.
DELETE FROM delivery_lease l WHERE l.id = @id::UUID
