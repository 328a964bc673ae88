-- Lists the receipts of a source, newest first. Earlier sources of the same name count, too.
--
-- Arguments: @tenant, a slug; @source, a name; @outcome, or NULL; @from and @before, the bounds of received_at, or NULL; @after_at and @after_id,
-- received_at and id of the last receipt of the previous page, or NULL; @limit, the largest number.
-- Returns: the receipts. No row if nothing matches, or if the tenant is unknown or suspended.
-- Locks: none.
-- Indexes: for each outcome it reads one part of idx_receipt_source, in order and no further than a page, then receipt_pkey for the page alone.
--
-- The limit comes from a subselect, so that the planner does not know it. A planner that knows it, and expects fewer rows in a part, reads and
-- sorts the whole part.
WITH bound AS MATERIALIZED (
    SELECT
        t.id AS tenant_id, COALESCE(@from::TIMESTAMPTZ, '-infinity') AS since, COALESCE(LEAST(@before::TIMESTAMPTZ, @after_at::TIMESTAMPTZ), 'infinity') AS at,
        CASE
            WHEN @before IS NULL OR @after_at < @before THEN COALESCE(@after_id::UUID, 'ffffffff-ffff-ffff-ffff-ffffffffffff')
            ELSE '00000000-0000-0000-0000-000000000000'
        END AS id,
        @limit::INT AS largest
    FROM tenant t
    WHERE t.slug = @tenant AND t.suspended_at IS NULL
),
page AS MATERIALIZED (
    SELECT found.id
    FROM bound
    CROSS JOIN (
        VALUES ('settled'), ('duplicate'), ('conflict'), ('timed_out'), ('cancelled'), ('held'), ('expired'), ('not_found'), ('ignored'), ('rule_failed')
    ) AS known (outcome)
    CROSS JOIN LATERAL (
        SELECT r.id, r.received_at
        FROM receipt r
        WHERE r.tenant_id = bound.tenant_id AND r.source_name = @source::VARCHAR AND r.outcome = known.outcome AND r.received_at >= bound.since
          AND (r.received_at, r.id) < (bound.at, bound.id)
        ORDER BY r.received_at DESC, r.id DESC
        LIMIT (SELECT largest FROM bound)
    ) AS found
    WHERE @outcome::VARCHAR IS NULL OR known.outcome = @outcome
    ORDER BY found.received_at DESC, found.id DESC
    LIMIT (SELECT largest FROM bound)
)
SELECT
    r.id, r.source_id, r.source_name AS source, r.event, r.item, r.rule, r.key, r.outcome, r.promise_id, r.reason, r.received_at, r.updated_at, r.expires_at,
    EXISTS (SELECT FROM receipt_body b WHERE b.receipt_id = r.id AND b.expires_at > NOW()) AS body_kept
FROM page
JOIN receipt r ON r.id = page.id
ORDER BY r.received_at DESC, r.id DESC
