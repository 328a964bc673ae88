-- Deletes one batch of what a tenant ($1 slug) has that is marked as deleted, and at last the tenant. $2 how many rows of a kind. done is NULL
-- if no tenant of that slug is marked. migrations/ has the function, and says what it locks.
SELECT promises, keys, events, executions, api_keys, done FROM tenant_delete($1, $2)
