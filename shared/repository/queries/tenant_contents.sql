-- Counts the rows of a tenant, each kind up to @bound + 1.
--
-- Arguments: @tenant, a slug; @bound.
-- Returns: one row with the counts; no row if the tenant is unknown.
-- Locks: none.
-- Indexes: see tenant_contents in migrations/functions.
SELECT promises, keys, events, executions, api_keys FROM tenant_contents(tenant_slug => @tenant, bound => @bound)
