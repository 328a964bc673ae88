-- Lists a tenant's pending promises with a deadline before @before, the soonest first. A page ends as in list_promises.sql.
--
-- Arguments: @tenant, a slug; @before, the bound of the deadlines; @after_at and @after_id, timeout_at and id of the last promise of the
-- previous page, or NULL; @limit, the largest number of promises; @bytes, the largest number of bytes.
-- Returns: as list_promises.sql.
-- Locks: none.
-- Indexes: one part of idx_promise_due_by_tenant, in order and no further than the page.
WITH page AS MATERIALIZED (
    SELECT p.id, p.timeout_at
    FROM promise p
    WHERE p.tenant_id = (SELECT t.id FROM tenant t WHERE t.slug = @tenant AND t.suspended_at IS NULL) AND p.outcome IS NULL
      AND p.timeout_at > NOW() AND p.timeout_at < @before::TIMESTAMPTZ
      AND (p.timeout_at, p.id)
          > (COALESCE(@after_at::TIMESTAMPTZ, '-infinity'), COALESCE(@after_id::UUID, '00000000-0000-0000-0000-000000000000'))
    ORDER BY p.timeout_at, p.id
    LIMIT @limit::INT
)
SELECT
    p.id, p.workflow_execution_id, p.name, p.outcome,
    CASE WHEN p.settled_by_kind IS DISTINCT FROM 'deadline' THEN p.value END AS value,
    CASE WHEN p.settled_by_kind IS DISTINCT FROM 'deadline' THEN p.error END AS error,
    p.timeout_at, p.created_at, p.resolved_at, p.created_by_sequence, p.resolved_by_sequence, p.metadata, p.idempotency_key,
    p.timeout_outcome, p.timeout_value, p.timeout_error, p.settled_by_kind, p.settled_by_id, p.comment, p.erased_at,
    (SELECT w.external_id FROM workflow_execution w WHERE w.id = p.workflow_execution_id) AS external_id,
    NOW() AS read_at,
    (SELECT COUNT(*) FROM page) AS matching
FROM (
    SELECT q.id, SUM(
        CASE WHEN q.settled_by_kind IS DISTINCT FROM 'deadline' -- else NULL, or a copy of timeout_value and timeout_error
            THEN COALESCE(OCTET_LENGTH(q.value), 0) + COALESCE(OCTET_LENGTH(q.error), 0) ELSE 0 END
        + COALESCE(OCTET_LENGTH(q.metadata::TEXT), 0) + COALESCE(OCTET_LENGTH(q.timeout_value), 0)
        + COALESCE(OCTET_LENGTH(q.timeout_error), 0)
    ) OVER in_order AS bytes, ROW_NUMBER() OVER in_order AS n
    FROM page
    CROSS JOIN LATERAL (SELECT * FROM promise r WHERE r.id = page.id LIMIT 1) AS q
    WINDOW in_order AS (ORDER BY page.timeout_at, page.id)
) AS sized
JOIN promise p ON p.id = sized.id
WHERE sized.bytes <= @bytes::BIGINT OR sized.n = 1
ORDER BY sized.n
