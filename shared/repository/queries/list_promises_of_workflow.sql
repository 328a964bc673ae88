-- Lists the promises of a workflow execution ($2), as list_promises.sql does those of a tenant. $1 slug, $3 name,
-- $4 state, $5 deadline before, $6 and $7 where to go on from, $8 how many, $9 how many bytes. No row: nothing matches.
--
-- No lock. By name it reads promise_workflow_execution_id_name_key, for pending ones idx_promise_pending, otherwise
-- idx_promise_workflow.
WITH bound AS MATERIALIZED (
    SELECT t.id AS tenant_id, COALESCE($6::TIMESTAMPTZ, 'infinity') AS at,
           COALESCE($7::UUID, 'ffffffff-ffff-ffff-ffff-ffffffffffff') AS id
    FROM tenant t
    WHERE t.slug = $1
),
found AS MATERIALIZED (
    SELECT p.id, p.tenant_id, p.created_at, p.outcome, p.timeout_at, p.timeout_outcome
    FROM promise p
    WHERE p.workflow_execution_id = $2::UUID AND p.name = $3::VARCHAR
    UNION ALL
    SELECT p.id, p.tenant_id, p.created_at, p.outcome, p.timeout_at, p.timeout_outcome
    FROM promise p
    WHERE p.workflow_execution_id = $2 AND p.resolved = FALSE AND $3 IS NULL AND $4::VARCHAR = 'pending'
    UNION ALL
    SELECT p.id, p.tenant_id, p.created_at, p.outcome, p.timeout_at, p.timeout_outcome
    FROM promise p
    WHERE p.workflow_execution_id = $2 AND $3 IS NULL AND $4 IS DISTINCT FROM 'pending'
),
page AS MATERIALIZED (
    SELECT p.id, p.created_at
    FROM bound
    JOIN found p ON p.tenant_id = bound.tenant_id AND (p.created_at, p.id) < (bound.at, bound.id)
    WHERE ($4 IS NULL OR $4 = COALESCE(
              p.outcome, CASE WHEN p.timeout_at <= NOW() THEN COALESCE(p.timeout_outcome, 'timed_out') ELSE 'pending' END
          ))
      AND ($5::TIMESTAMPTZ IS NULL OR p.timeout_at < $5)
    ORDER BY p.created_at DESC, p.id DESC
    LIMIT $8::INT
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
WHERE sized.bytes <= $9::BIGINT OR sized.n = 1
ORDER BY p.created_at DESC, p.id DESC
