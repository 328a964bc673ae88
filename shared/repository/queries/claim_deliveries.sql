-- Claims due deliveries of one destination, the oldest first, for one call of send-deliveries. Until the lease ends, no other call claims
-- them.
--
-- The deliveries of one claim fit into a number of bytes, and it has at least one. Their size is estimated by the promise's contents, in JSON
-- and base64. A delivery whose last lease ended without a result is claimed alone, because it may be the one that stops the sender. The claim
-- counts that lease as an attempt.
--
-- Arguments:
--   @destination                  the destination's id
--   @since                        the due time from which the claim reads: older entries are not read
--   @lease, @lease_time           the lease's id and its length
--   @limit, @bytes                the largest number of deliveries, and their estimated size
--   @largest                      the largest size of a message's body: larger contents are left out
--   @destination_calls, @tenant_calls
--                                 the number of running calls at which nothing is claimed
--
-- Returns: a row for each delivery with its promise. If there is none, one row without both. status is one of these:
--   open             the deliveries are all that could be claimed
--   closed           the destination is disabled, deleted or unknown, or its tenant is suspended
--   locked           another transaction has locked the destination
--   tenant_full, destination_full
--                    the tenant, or the destination, has as many calls as it may have
-- next is the due time from which the next claim reads, or NULL if no more is due.
--
-- The statement counts the calls before it locks the destination. So a claim that begins while another one commits may exceed a bound by one.
--
-- Locks: the destination's row FOR NO KEY UPDATE, then the deliveries' rows, then a new lease. It skips locked ones.
-- Indexes: destination_pkey, idx_delivery_lease_expires, idx_delivery_due_by_destination, delivery_pkey, promise_pkey, workflow_execution_pkey,
-- destination_secret_pkey.
WITH destination_row AS MATERIALIZED (
    SELECT d.* FROM destination d WHERE d.id = @destination::UUID FOR NO KEY UPDATE SKIP LOCKED
),
running AS MATERIALIZED (
    SELECT
        COUNT(*) FILTER (WHERE l.tenant_id = d.tenant_id) AS of_tenant,
        COUNT(*) FILTER (WHERE l.destination_id = d.id) AS of_destination
    FROM destination_row d
    CROSS JOIN delivery_lease l
    WHERE l.expires_at > NOW()
),
gate AS MATERIALIZED (
    SELECT
        d.*, t.slug,
        CASE
            WHEN NOT d.enabled OR d.deleted_at IS NOT NULL OR t.suspended_at IS NOT NULL THEN 'closed'
            WHEN running.of_tenant >= @tenant_calls::INT THEN 'tenant_full'
            WHEN running.of_destination >= @destination_calls::INT THEN 'destination_full'
            ELSE 'open'
        END AS status
    FROM destination_row d
    JOIN tenant t ON t.id = d.tenant_id
    CROSS JOIN running
),
candidate AS MATERIALIZED (
    SELECT v.*
    FROM gate g
    CROSS JOIN LATERAL (
        SELECT q.id, q.promise_id, q.token, q.attempts, q.due_at, q.lease IS NOT NULL AS unanswered
        FROM delivery q
        WHERE q.destination_id = g.id AND q.due_at >= @since::TIMESTAMPTZ AND q.due_at <= NOW()
        ORDER BY q.due_at
        LIMIT @limit::INT
        FOR UPDATE SKIP LOCKED
    ) AS v
    WHERE g.status = 'open'
),
sized AS MATERIALIZED (
    SELECT
        c.*,
        ROW_NUMBER() OVER by_age AS place,
        FIRST_VALUE(c.unanswered) OVER by_age AS alone,
        SUM(16384 + 4 * LEAST(@largest::BIGINT, content.size) / 3) OVER by_age AS total
    FROM candidate c
    CROSS JOIN LATERAL (
        SELECT
            COALESCE(OCTET_LENGTH(p.value), 0) + COALESCE(OCTET_LENGTH(TO_JSON(p.error)::TEXT), 0)
            + COALESCE(OCTET_LENGTH(p.metadata::TEXT), 0)
            + COALESCE(OCTET_LENGTH(p.timeout_value), 0) + COALESCE(OCTET_LENGTH(TO_JSON(p.timeout_error)::TEXT), 0) AS size
        FROM promise p
        WHERE p.id = c.promise_id
        OFFSET 0
    ) AS content
    WINDOW by_age AS (ORDER BY c.due_at, c.id ROWS UNBOUNDED PRECEDING)
),
taken AS MATERIALIZED (
    SELECT * FROM sized WHERE place = 1 OR NOT alone AND NOT unanswered AND total <= @bytes::BIGINT
),
leased AS (
    UPDATE delivery v
    SET lease = @lease::UUID, due_at = NOW() + @lease_time::INTERVAL, attempts = taken.attempts + taken.unanswered::INT
    FROM taken
    WHERE v.id = taken.id
),
lease AS (
    INSERT INTO delivery_lease (id, tenant_id, destination_id, expires_at)
    SELECT @lease::UUID, g.tenant_id, g.id, NOW() + @lease_time::INTERVAL
    FROM gate g
    WHERE EXISTS (SELECT FROM taken)
),
secret AS MATERIALIZED (
    SELECT ARRAY_AGG(s.version ORDER BY s.version DESC) AS versions, ARRAY_AGG(s.sealed ORDER BY s.version DESC) AS sealed
    FROM gate g
    JOIN destination_secret s ON s.destination_id = g.id AND (s.retire_at IS NULL OR s.retire_at > NOW())
    WHERE EXISTS (SELECT FROM taken)
)
SELECT
    COALESCE(g.status, CASE WHEN EXISTS (SELECT FROM destination WHERE id = @destination::UUID) THEN 'locked' ELSE 'closed' END) AS status,
    CASE
        WHEN EXISTS (SELECT FROM sized WHERE id NOT IN (SELECT id FROM taken))
            THEN (SELECT MIN(due_at) FROM sized WHERE id NOT IN (SELECT id FROM taken))
        WHEN (SELECT COUNT(*) FROM taken) >= @limit::INT THEN (SELECT MAX(due_at) FROM taken)
    END AS next,
    g.slug AS tenant,
    g.name AS destination_name,
    g.kind,
    g.address,
    g.mail_from,
    g.region,
    g.role_arn,
    g.updated_at AS destination_updated_at,
    secret.versions AS secret_versions,
    secret.sealed AS sealed_secrets,
    taken.id AS delivery_id,
    taken.token,
    taken.attempts + taken.unanswered::INT AS attempts,
    taken.unanswered,
    COALESCE(p.id, @destination::UUID) AS id,
    COALESCE(p.workflow_execution_id, @destination::UUID) AS workflow_execution_id,
    COALESCE(p.name, '') AS name,
    p.outcome,
    p.value,
    p.error,
    p.timeout_at,
    COALESCE(p.created_at, NOW()) AS created_at,
    p.resolved_at,
    COALESCE(p.created_by_sequence, 0) AS created_by_sequence,
    p.resolved_by_sequence,
    p.metadata,
    p.idempotency_key,
    p.timeout_outcome,
    p.timeout_value,
    p.timeout_error,
    p.settled_by_kind,
    p.settled_by_id,
    p.comment,
    p.erased_at,
    (SELECT w.external_id FROM workflow_execution w WHERE w.id = p.workflow_execution_id) AS external_id,
    CLOCK_TIMESTAMP() AS read_at
FROM secret
LEFT JOIN gate g ON TRUE
LEFT JOIN taken ON TRUE
LEFT JOIN promise p ON p.id = taken.promise_id
ORDER BY taken.place
