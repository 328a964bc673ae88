-- Finds the tenant of a slug ($1) that was deleted last. No lock. deleted_tenant_pkey.
SELECT tenant_id AS id, deleted_at FROM deleted_tenant WHERE slug = $1
