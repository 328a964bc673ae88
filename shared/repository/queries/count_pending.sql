-- Counts the next pending promises of some tenants.
--
-- Arguments: arrays @tenants of ids, and @created_ats and @ids of the last promise that was counted, or NULL; @limit, the largest number to
-- count for each tenant.
-- Returns: one row for each tenant, in the order of @tenants, with the last promise that was counted.
-- Locks: none.
-- Indexes: idx_promise_tenant, and nothing else is read.
SELECT COALESCE(slice.n, 0) AS counted, slice.created_at, slice.id
FROM unnest(@tenants::TEXT[], @created_ats::TIMESTAMPTZ[], @ids::TEXT[]) WITH ORDINALITY AS given (tenant_id, created_at, id, place)
LEFT JOIN LATERAL (
    SELECT numbered.n, numbered.created_at, numbered.id
    FROM (
        SELECT pending.created_at, pending.id, ROW_NUMBER() OVER () AS n
        FROM (
            SELECT p.created_at, p.id
            FROM promise p
            WHERE p.tenant_id = given.tenant_id::UUID AND p.outcome IS NULL
              AND (p.created_at, p.id) < (
                  COALESCE(given.created_at, 'infinity'), COALESCE(given.id::UUID, 'ffffffff-ffff-ffff-ffff-ffffffffffff')
              )
            ORDER BY p.outcome, p.created_at DESC, p.id DESC -- the index's order
            LIMIT @limit::INT
        ) AS pending
    ) AS numbered
    ORDER BY numbered.n DESC
    LIMIT 1
) AS slice ON TRUE
ORDER BY given.place
