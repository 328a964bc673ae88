-- Says whether there is a tenant of a slug ($1). No lock; tenant_slug_key finds it.
SELECT EXISTS (SELECT FROM tenant WHERE slug = $1)
