-- Holds a settlement under a key ($2) that no promise has, for the promise that will be created with it. $1 slug, $3 for
-- how long, $4 outcome, $5 value, $6 error, $7 and $8 kind and id of who settles, $9 comment.
-- One row: until when a settlement is held now, whether that is this one, or one that was held before and is the same,
-- and whether a hold that had expired unused made room. expires_at is NULL where the key belongs to a promise, or somebody
-- came first: to be run again, after another look for the promise. doubtful and $10: as in create.sql. No row: there is no
-- such tenant.
--
-- Locks: the key's row. What is free makes room, if it still is as it was seen.
WITH seen AS MATERIALIZED (
    SELECT
        k.promise_id, k.expires_at, k.held_at,
        k.promise_id IS NULL AND k.expires_at > NOW() AS holds,
        k.promise_id IS NOT NULL
            AND (k.expires_at > NOW() OR NOT q.resolved AND (q.timeout_at IS NULL OR q.timeout_at > NOW())) AS belongs,
        COALESCE(NOT q.resolved AND k.expires_at <= NOW() AND q.timeout_at <= NOW() AND NOT $10::BOOLEAN, FALSE) AS doubtful,
        q.workflow_execution_id,
        k.held_outcome = $4::VARCHAR AND k.held_value IS NOT DISTINCT FROM $5::BYTEA
            AND k.held_error IS NOT DISTINCT FROM $6::TEXT AS same
    FROM tenant t
    JOIN idempotency_key k ON k.tenant_id = t.id AND k.key = $2::VARCHAR
    LEFT JOIN promise q ON q.id = k.promise_id
    WHERE t.slug = $1
),
held AS (
    INSERT INTO idempotency_key AS k (tenant_id, key, expires_at, held_at, held_outcome, held_value, held_error,
                                      held_by_kind, held_by_id, held_comment)
    SELECT t.id, $2::VARCHAR, NOW() + $3::INTERVAL, NOW(), $4::VARCHAR, $5::BYTEA, $6::TEXT, $7::VARCHAR, $8::VARCHAR,
           $9::VARCHAR
    FROM tenant t
    WHERE t.slug = $1 AND NOT EXISTS (SELECT FROM seen WHERE holds OR belongs OR doubtful)
    ON CONFLICT (tenant_id, key) DO UPDATE
        SET promise_id = NULL, expires_at = EXCLUDED.expires_at, held_at = EXCLUDED.held_at,
            held_outcome = EXCLUDED.held_outcome, held_value = EXCLUDED.held_value, held_error = EXCLUDED.held_error,
            held_by_kind = EXCLUDED.held_by_kind, held_by_id = EXCLUDED.held_by_id, held_comment = EXCLUDED.held_comment
        WHERE EXISTS (
            SELECT FROM seen
            WHERE (seen.expires_at, seen.promise_id, seen.held_at) IS NOT DISTINCT FROM (k.expires_at, k.promise_id, k.held_at)
        )
    RETURNING k.expires_at
)
SELECT
    COALESCE(held.expires_at, CASE WHEN seen.holds THEN seen.expires_at END) AS expires_at,
    held.expires_at IS NOT NULL AS held,
    COALESCE(seen.doubtful, FALSE) AS doubtful,
    seen.workflow_execution_id,
    COALESCE(seen.same, FALSE) AS same,
    held.expires_at IS NOT NULL AND EXISTS (SELECT FROM seen WHERE promise_id IS NULL) AS lost_hold
FROM tenant t
LEFT JOIN held ON TRUE
LEFT JOIN seen ON seen.holds OR seen.doubtful
WHERE t.slug = $1
