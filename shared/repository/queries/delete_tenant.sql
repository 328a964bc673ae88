-- Deletes one batch of the rows of a tenant that is marked as deleted, and finally the tenant.
--
-- Arguments: @tenant, a slug; @limit, the size of a batch, as tenant_delete in migrations/functions counts it.
-- Returns: one row with the counts; done is TRUE after the last batch, and NULL if no tenant of that slug is marked.
-- Locks, indexes: see tenant_delete.
SELECT promises, keys, events, executions, api_keys, done FROM tenant_delete(tenant_slug => @tenant, batch => @limit)
