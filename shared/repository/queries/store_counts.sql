-- Stores the counts of some tenants, and updates the flags that say which limits they have reached. An equal count is stored again only after
-- a minute. A count that began before the stored one is ignored.
--
-- Arguments: arrays @tenants of ids, @counted_ats, the times at which the counts began, @pending promises, @early settlements and
-- @early_bytes; @default_pending, @default_early and @default_early_bytes, the service's own limits.
-- Returns: one row for each tenant whose flags changed.
-- Locks: the tenants' rows, skipping locked ones until the next count, and the rows of tenant_usage.
-- Indexes: tenant_pkey, tenant_usage_pkey.
WITH counted AS MATERIALIZED (
    SELECT t.id, c.counted_at, c.pending, c.held, c.held_bytes,
           c.pending >= COALESCE(t.max_pending, @default_pending::BIGINT) AS pending_full,
           c.held >= COALESCE(t.max_held, @default_early::BIGINT)
               OR c.held_bytes >= COALESCE(t.max_held_bytes, @default_early_bytes::BIGINT) AS held_full
    FROM unnest(@tenants::TEXT[], @counted_ats::TIMESTAMPTZ[], @pending::BIGINT[], @early::BIGINT[], @early_bytes::BIGINT[])
        AS c (id, counted_at, pending, held, held_bytes)
    JOIN tenant t ON t.id = c.id::UUID
    LEFT JOIN tenant_usage u ON u.tenant_id = t.id
    WHERE u.counted_at IS NULL OR u.counted_at < c.counted_at
    FOR NO KEY UPDATE OF t SKIP LOCKED
),
stored AS (
    INSERT INTO tenant_usage AS u (tenant_id, counted_at, pending, held, held_bytes)
    SELECT id, counted_at, pending, held, held_bytes FROM counted
    ON CONFLICT (tenant_id) DO UPDATE
        SET counted_at = EXCLUDED.counted_at, pending = EXCLUDED.pending, held = EXCLUDED.held, held_bytes = EXCLUDED.held_bytes
        WHERE u.counted_at < EXCLUDED.counted_at AND (
            (u.pending, u.held, u.held_bytes) <> (EXCLUDED.pending, EXCLUDED.held, EXCLUDED.held_bytes)
            OR u.counted_at < EXCLUDED.counted_at - INTERVAL '1 minute'
        )
)
UPDATE tenant t
SET pending_full = c.pending_full, held_full = c.held_full
FROM counted c
WHERE t.id = c.id AND (t.pending_full, t.held_full) <> (c.pending_full, c.held_full)
RETURNING t.slug AS tenant, t.pending_full, t.held_full AS early_full
