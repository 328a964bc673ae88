-- Lists a tenant's promises, newest first. A page ends before its values and metadata would exceed @bytes bytes, but has at least one promise.
--
-- Arguments: @tenant, a slug; @state, or NULL; @after_at and @after_id, created_at and id of the last promise of the previous page, or
-- NULL; @limit, the largest number of promises; @bytes, the largest number of bytes.
-- Returns: the promises. matching, the same in each row, counts the matching ones up to @limit, also those that @bytes keeps off the page. No
-- row if nothing matches, or if the tenant is unknown or suspended.
-- Locks: none.
-- Indexes: each branch reads one part of idx_promise_tenant, in order and no further than the page. For deadlines that nothing has recorded
-- yet, it reads the tenant's part of idx_promise_due_by_tenant. @state alone decides which branches run, so one plan is right for all arguments.
WITH bound AS MATERIALIZED (
    SELECT t.id AS tenant_id, COALESCE(@after_at::TIMESTAMPTZ, 'infinity') AS at,
           COALESCE(@after_id::UUID, 'ffffffff-ffff-ffff-ffff-ffffffffffff') AS id
    FROM tenant t
    WHERE t.slug = @tenant AND t.suspended_at IS NULL
),
page AS MATERIALIZED (
    SELECT id, created_at
    FROM (
        (
            SELECT p.id, p.created_at
            FROM promise p
            WHERE p.tenant_id = (SELECT tenant_id FROM bound) AND p.outcome IS NULL
              AND (p.created_at, p.id) < ((SELECT at FROM bound), (SELECT id FROM bound))
              AND (@state::VARCHAR IS NULL OR @state = 'pending')
              AND (@state IS NULL OR p.timeout_at IS NULL OR p.timeout_at > NOW())
            ORDER BY p.outcome, p.created_at DESC, p.id DESC -- the index's order, so that nothing is sorted
            LIMIT @limit::INT
        )
        UNION ALL
        (
            SELECT due.id, due.created_at
            FROM (
                SELECT p.id, p.created_at, p.timeout_outcome
                FROM promise p
                WHERE p.tenant_id = (SELECT tenant_id FROM bound) AND p.outcome IS NULL AND p.timeout_at <= NOW()
                  AND @state IN ('resolved', 'rejected', 'timed_out')
                ORDER BY p.timeout_at, p.id
                OFFSET 0 -- a barrier: the planner keeps the next conditions and other indexes out of this
            ) AS due
            WHERE (due.created_at, due.id) < ((SELECT at FROM bound), (SELECT id FROM bound))
              AND promise_deadline_outcome(due.timeout_outcome) = @state
            ORDER BY due.created_at DESC, due.id DESC
            LIMIT @limit
        )
        UNION ALL
        SELECT settled.id, settled.created_at
        FROM bound
        CROSS JOIN (VALUES ('resolved'), ('rejected'), ('timed_out'), ('cancelled')) AS final (outcome)
        CROSS JOIN LATERAL (
            SELECT p.id, p.created_at
            FROM promise p
            WHERE p.tenant_id = bound.tenant_id AND p.outcome = final.outcome AND (p.created_at, p.id) < (bound.at, bound.id)
            ORDER BY p.created_at DESC, p.id DESC
            LIMIT @limit
        ) AS settled
        WHERE @state IS NULL OR final.outcome = @state
    ) AS found
    ORDER BY created_at DESC, id DESC
    LIMIT @limit
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
    WINDOW in_order AS (ORDER BY page.created_at DESC, page.id DESC)
) AS sized
JOIN promise p ON p.id = sized.id
WHERE sized.bytes <= @bytes::BIGINT OR sized.n = 1
ORDER BY sized.n
