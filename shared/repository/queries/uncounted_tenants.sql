-- Lists the tenants whose promises and early settlements will be counted, with the time at which their counts begin.
--
-- Returns: one row for each tenant that is not being deleted.
-- Locks: none.
-- Indexes: none. All tenants are read.
SELECT id, NOW() AS counted_at FROM tenant WHERE deleted_at IS NULL
