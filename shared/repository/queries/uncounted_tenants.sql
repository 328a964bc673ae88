-- Lists the tenants whose promises and early settlements are to be counted, from now on. No lock.
SELECT id, NOW() AS counted_at FROM tenant WHERE deleted_at IS NULL
