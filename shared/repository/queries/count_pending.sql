-- Counts the next pending promises of some tenants: arrays $1 tenants, $2 and $3 created_at and id of the last promise that was counted
-- (NULL: none), $4 how many of each tenant at most. One row for each tenant, in order, with the last promise that it counted. Reads
-- nothing but idx_promise_tenant. No lock.
SELECT COALESCE(slice.n, 0) AS counted, slice.created_at, slice.id
FROM unnest($1::TEXT[], $2::TIMESTAMPTZ[], $3::TEXT[]) WITH ORDINALITY AS given (tenant_id, created_at, id, place)
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
            ORDER BY p.outcome, p.created_at DESC, p.id DESC -- the index's own order
            LIMIT $4::INT
        ) AS pending
    ) AS numbered
    ORDER BY numbered.n DESC
    LIMIT 1
) AS slice ON TRUE
ORDER BY given.place
