-- Counts the enabled sources that have verified a request within a day, but none within 15 minutes, and have refused requests for 10 minutes since then
-- and since they were changed. So one request that an outsider forges does not count. See touch_source.sql for the two minutes.
--
-- Returns: one row.
-- Locks: none.
-- Indexes: idx_source_verified.
SELECT COUNT(*) AS silent
FROM source s
JOIN tenant t ON t.id = s.tenant_id AND t.suspended_at IS NULL
WHERE s.last_verified_at BETWEEN NOW() - INTERVAL '1 day' AND NOW() - INTERVAL '15 minutes' AND s.enabled
  AND s.refused_since > GREATEST(s.last_verified_at + INTERVAL '2 minutes', s.updated_at) AND s.last_refused_at >= s.refused_since + INTERVAL '10 minutes'
