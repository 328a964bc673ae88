-- Counts what a tenant ($1 slug) has, each kind up to $2 + 1. No row: there is no such tenant. No lock; migrations/ has the function.
SELECT promises, keys, events, executions, api_keys FROM tenant_contents($1, $2)
