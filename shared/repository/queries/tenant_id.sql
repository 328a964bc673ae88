-- Finds a tenant's id by its slug ($1). No row: there is no such tenant. No lock.
SELECT id FROM tenant WHERE slug = $1
