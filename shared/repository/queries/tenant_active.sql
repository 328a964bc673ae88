-- Says whether there is a tenant of a slug ($1) that is not suspended. No lock. tenant_slug_key.
SELECT EXISTS (SELECT FROM tenant WHERE slug = $1 AND suspended_at IS NULL)
