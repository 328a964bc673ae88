-- Records that a source has received a request, and that it has verified or refused it. Of times that are less than a minute apart, only the first is
-- stored. refused_since becomes the time of the first refusal since the source last verified a request or was changed. The last verification may be two
-- minutes younger than last_verified_at: each process, and this statement, stores one a minute.
--
-- Arguments: @tenant, a slug; @name; @refusal, a reason of at most 200 characters, or NULL if the request was verified; @id of the source that has
-- verified it: another one that has the name by now has not.
-- Returns: nothing.
-- Locks: the source's row, unless another transaction has locked it: then that one has just stored a time.
-- Indexes: tenant_slug_key, source_tenant_id_name_key, source_pkey.
WITH due AS MATERIALIZED (
    SELECT s.id
    FROM tenant t
    JOIN source s ON s.tenant_id = t.id AND s.name = @name AND (@refusal::VARCHAR IS NOT NULL OR s.id = @id::UUID)
    WHERE t.slug = @tenant AND t.suspended_at IS NULL
      AND COALESCE(CASE WHEN @refusal IS NULL THEN s.last_verified_at ELSE s.last_refused_at END, '-infinity') < NOW() - INTERVAL '1 minute'
    FOR NO KEY UPDATE OF s SKIP LOCKED
)
UPDATE source s
SET last_received_at = NOW(),
    last_verified_at = CASE WHEN @refusal IS NULL THEN NOW() ELSE s.last_verified_at END,
    last_refused_at = CASE WHEN @refusal IS NULL THEN s.last_refused_at ELSE NOW() END,
    refused_since = CASE
        WHEN @refusal IS NULL OR s.refused_since > GREATEST(s.last_verified_at + INTERVAL '2 minutes', s.updated_at) THEN s.refused_since
        ELSE NOW()
    END,
    last_refusal = COALESCE(LEFT(@refusal, 200), s.last_refusal)
FROM due
WHERE s.id = due.id
