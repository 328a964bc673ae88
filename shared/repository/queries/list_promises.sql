-- Lists a tenant's promises, newest first. $1 slug, $2 name, $3 state, $4 deadline before, $5 and $6 created_at and id of
-- the last promise of the page before, $7 how many, $8 how many bytes of values and metadata: a page ends before it
-- would hold more, but never before its first. All but $1, $7 and $8 may be NULL. No row: nothing matches, or there is
-- no such tenant.
--
-- No lock. Each branch reads, in order and no further than it must to find what is asked for, one part of idx_promise_tenant; or, for deadlines that
-- nothing has recorded yet, idx_promise_due. Which branches are needed depends on $3 alone, so that no plan is a bad one.
WITH bound AS MATERIALIZED (
    SELECT t.id AS tenant_id, COALESCE($5::TIMESTAMPTZ, 'infinity') AS at,
           COALESCE($6::UUID, 'ffffffff-ffff-ffff-ffff-ffffffffffff') AS id
    FROM tenant t
    WHERE t.slug = $1
),
page AS MATERIALIZED (
    SELECT id, created_at
    FROM (
        (
            SELECT p.id, p.created_at
            FROM promise p
            WHERE p.tenant_id = (SELECT tenant_id FROM bound) AND p.outcome IS NULL
              AND (p.created_at, p.id) < ((SELECT at FROM bound), (SELECT id FROM bound))
              AND ($3::VARCHAR IS NULL OR $3 = 'pending')
              AND ($3 IS NULL OR p.timeout_at IS NULL OR p.timeout_at > NOW())
              AND ($2::VARCHAR IS NULL OR p.name = $2)
              AND ($4::TIMESTAMPTZ IS NULL OR p.timeout_at < $4)
            ORDER BY p.outcome, p.created_at DESC, p.id DESC -- the index's own order, or it would be sorted
            LIMIT $7::INT
        )
        UNION ALL
        (
            SELECT p.id, p.created_at
            FROM promise p
            WHERE p.tenant_id = (SELECT tenant_id FROM bound)
              AND (p.created_at, p.id) < ((SELECT at FROM bound), (SELECT id FROM bound))
              AND $3 IN ('resolved', 'rejected', 'timed_out')
              AND p.resolved = FALSE AND p.timeout_at <= NOW() AND COALESCE(p.timeout_outcome, 'timed_out') = $3
              AND ($2 IS NULL OR p.name = $2)
              AND ($4 IS NULL OR p.timeout_at < $4)
            ORDER BY p.created_at DESC, p.id DESC
            LIMIT $7
        )
        UNION ALL
        SELECT settled.id, settled.created_at
        FROM bound
        CROSS JOIN (VALUES ('resolved'), ('rejected'), ('timed_out'), ('cancelled')) AS final (outcome)
        CROSS JOIN LATERAL (
            SELECT p.id, p.created_at
            FROM promise p
            WHERE p.tenant_id = bound.tenant_id AND p.outcome = final.outcome AND (p.created_at, p.id) < (bound.at, bound.id)
              AND ($2 IS NULL OR p.name = $2)
              AND ($4 IS NULL OR p.timeout_at < $4)
            ORDER BY p.created_at DESC, p.id DESC
            LIMIT $7
        ) AS settled
        WHERE $3 IS NULL OR final.outcome = $3
    ) AS found
    ORDER BY created_at DESC, id DESC
    LIMIT $7
)
SELECT
    p.id, p.workflow_execution_id, p.name, p.outcome, p.value, p.error, p.timeout_at, p.created_at, p.resolved_at,
    p.created_by_sequence, p.resolved_by_sequence, p.metadata, p.idempotency_key,
    p.timeout_outcome, p.timeout_value, p.timeout_error, p.settled_by_kind, p.settled_by_id, p.comment, p.erased_at, (SELECT w.external_id FROM workflow_execution w WHERE w.id = p.workflow_execution_id) AS external_id,
    NOW() AS read_at,
    (SELECT COUNT(*) FROM page) AS matching
FROM (
    SELECT q.id, SUM(
        COALESCE(OCTET_LENGTH(q.value), 0) + COALESCE(OCTET_LENGTH(q.error), 0) + COALESCE(OCTET_LENGTH(q.metadata::TEXT), 0)
        + COALESCE(OCTET_LENGTH(q.timeout_value), 0) + COALESCE(OCTET_LENGTH(q.timeout_error), 0)
    ) OVER newest_first AS bytes, ROW_NUMBER() OVER newest_first AS n
    FROM page
    JOIN promise q ON q.id = page.id
    WINDOW newest_first AS (ORDER BY page.created_at DESC, page.id DESC)
) AS sized
JOIN promise p ON p.id = sized.id
WHERE sized.bytes <= $8::BIGINT OR sized.n = 1
ORDER BY p.created_at DESC, p.id DESC
