-- Counts the rows of a tenant, each kind up to bound + 1. Returns no row if the tenant is unknown. SECURITY DEFINER: its caller may read no promise.
-- Locks: none.
CREATE OR REPLACE FUNCTION tenant_contents(tenant_slug VARCHAR, bound INT)
RETURNS TABLE (promises BIGINT, keys BIGINT, events BIGINT, executions BIGINT, api_keys BIGINT)
LANGUAGE sql STABLE SECURITY DEFINER SET enable_seqscan = off AS $$
    SELECT
        (SELECT COUNT(*) FROM (SELECT FROM promise p WHERE p.tenant_id = t.id LIMIT bound + 1) AS n),
        (SELECT COUNT(*) FROM (SELECT FROM idempotency_key k WHERE k.tenant_id = t.id LIMIT bound + 1) AS n),
        (SELECT LEAST(
            bound + 1,
            (SELECT COUNT(*) FROM (
                SELECT
                FROM workflow_execution w
                CROSS JOIN LATERAL (SELECT FROM workflow_event_row e WHERE e.workflow_execution_id = w.id OFFSET 0) AS logged
                WHERE w.tenant_id = t.id
                LIMIT bound + 1
            ) AS n)
            + (SELECT COUNT(*) FROM (
                SELECT p.settled_by_kind FROM promise p WHERE p.tenant_id = t.id AND p.outcome IS NOT NULL LIMIT bound + 1
            ) AS n WHERE n.settled_by_kind <> 'deadline')
        )),
        (SELECT COUNT(*) FROM (SELECT FROM workflow_execution w WHERE w.tenant_id = t.id LIMIT bound + 1) AS n),
        (SELECT COUNT(*) FROM (SELECT FROM api_key a WHERE a.tenant_id = t.id LIMIT bound + 1) AS n)
    FROM tenant t
    WHERE t.slug = tenant_slug
$$;

-- The function searches the schema of the tables, and pg_temp last: otherwise a temporary table of its caller would come first.
DO $$
BEGIN
    EXECUTE format('ALTER FUNCTION tenant_contents(VARCHAR, INT) SET search_path = %I, pg_temp', current_schema());
END $$;
REVOKE ALL ON FUNCTION tenant_contents(VARCHAR, INT) FROM PUBLIC;
