-- Finds a tenant's id by its slug ($1). No row: there is no such tenant, or it is suspended. No lock.
SELECT id FROM tenant WHERE slug = $1 AND suspended_at IS NULL
