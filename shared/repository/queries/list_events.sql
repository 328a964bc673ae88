-- Reads a workflow execution's event log after a sequence number, in order. A page ends before its values would exceed @bytes bytes, but has at
-- least one event.
--
-- Arguments: @tenant, a slug; @workflow, the workflow execution's id; @after, a sequence number; @limit, the largest number of events;
-- @bytes, the largest number of bytes.
-- Returns: one row for each event; without any, one row with last_sequence_number alone. No row if the tenant has no such workflow execution.
-- Locks: none. A number is handed out under the workflow execution's lock, so no event becomes visible before those with lower numbers.
-- Indexes: workflow_event_row_pkey and idx_promise_settled, the two halves of the view workflow_event, each read no further than the page;
-- workflow_execution_pkey, promise_pkey.
WITH log AS MATERIALIZED (
    SELECT w.id, w.last_sequence_number
    FROM tenant t
    JOIN workflow_execution w ON w.tenant_id = t.id
    WHERE t.slug = @tenant AND t.suspended_at IS NULL AND w.id = @workflow::UUID
),
page AS MATERIALIZED (
    SELECT event.*
    FROM log
    CROSS JOIN LATERAL (
        (
            SELECT e.sequence_number, e.event_type, e.promise_id, e.created_at, e.timeout_at
            FROM workflow_event_row e
            WHERE e.workflow_execution_id = log.id AND e.sequence_number > @after::INT
            ORDER BY e.sequence_number
            LIMIT @limit::INT
        )
        UNION ALL
        (
            SELECT p.resolved_by_sequence, 'PROMISE_' || UPPER(p.outcome), p.id, p.resolved_at, NULL
            FROM promise p
            WHERE p.workflow_execution_id = log.id AND p.resolved_by_sequence > @after::INT AND p.settled_by_kind <> 'deadline'
            ORDER BY p.resolved_by_sequence
            LIMIT @limit::INT
        )
    ) AS event
    ORDER BY event.sequence_number
    LIMIT @limit::INT
),
sized AS (
    SELECT
        page.*, p.name, p.outcome, p.resolved_by_sequence = page.sequence_number AS settles, ROW_NUMBER() OVER log_order AS n,
        SUM(CASE
            WHEN p.resolved_by_sequence IS DISTINCT FROM page.sequence_number THEN 0
            WHEN p.settled_by_kind = 'deadline'
                THEN COALESCE(OCTET_LENGTH(p.timeout_value), 0) + COALESCE(OCTET_LENGTH(p.timeout_error), 0)
            ELSE COALESCE(OCTET_LENGTH(p.value), 0) + COALESCE(OCTET_LENGTH(p.error), 0)
        END) OVER log_order AS bytes
    FROM page
    LEFT JOIN promise p ON p.id = page.promise_id
    WINDOW log_order AS (ORDER BY page.sequence_number)
)
SELECT
    log.last_sequence_number, e.sequence_number, e.event_type, e.promise_id, e.name, e.created_at, e.timeout_at,
    p.outcome,
    CASE WHEN p.settled_by_kind = 'deadline' THEN p.timeout_value ELSE p.value END AS value,
    CASE WHEN p.settled_by_kind = 'deadline' THEN p.timeout_error ELSE p.error END AS error,
    p.settled_by_kind, p.settled_by_id, p.comment, p.erased_at
FROM log
LEFT JOIN sized e ON e.bytes <= @bytes::BIGINT OR e.n = 1
LEFT JOIN promise p ON p.id = e.promise_id AND e.settles
ORDER BY e.sequence_number
