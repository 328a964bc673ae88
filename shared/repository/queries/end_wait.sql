-- Removes a call ($2) from those that wait for their tenant ($1 slug); it may have been removed before, as an expired one. Locks that
-- one row. tenant_wait_pkey.
DELETE FROM tenant_wait w
USING tenant t
WHERE t.slug = $1 AND w.tenant_id = t.id AND w.id = $2::UUID
