-- Counts the rows of a tenant, each kind up to $2 + 1.
--
-- Arguments: $1 slug, $2 the bound.
-- Returns: one row with the counts; no row if the tenant is unknown.
-- Locks: none.
-- Indexes: see tenant_contents in migrations/.
SELECT promises, keys, events, executions, api_keys FROM tenant_contents($1, $2)
