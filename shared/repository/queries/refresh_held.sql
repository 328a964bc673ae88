-- Counts the receipts of sources that wait for a promise, up to a limit, and updates the flags that say which sources have reached it.
--
-- Arguments: @after, the id after which it begins; @limit, the largest number of sources; @most, the limit of a source.
-- Returns: one row. last is the last source that was counted, or NULL. It counts sources that have such a receipt or the flag, in the order of their
-- ids. reached and dropped are the ids of the sources whose flag was set and cleared.
-- Locks: the sources' rows, skipping locked ones until the next count.
-- Indexes: idx_receipt_held, idx_source_held_full, source_pkey. It reads at most @most entries for a source.
WITH RECURSIVE due (id, place) AS (
    SELECT @after::UUID, 0
    UNION ALL
    SELECT
        LEAST(
            (SELECT r.source_id FROM receipt r WHERE r.outcome = 'held' AND r.source_id > due.id ORDER BY r.source_id LIMIT 1),
            (SELECT s.id FROM source s WHERE s.held_full AND s.id > due.id ORDER BY s.id LIMIT 1)
        ),
        due.place + 1
    FROM due
    WHERE due.place < @limit::INT AND due.id IS NOT NULL
),
counted AS MATERIALIZED (
    SELECT due.id, held.n >= @most::INT AS is_full
    FROM due
    CROSS JOIN LATERAL (
        SELECT COUNT(*) AS n
        FROM (SELECT FROM receipt r WHERE r.outcome = 'held' AND r.source_id = due.id LIMIT @most) AS few
    ) AS held
    WHERE due.place > 0 AND due.id IS NOT NULL
),
changes AS MATERIALIZED (
    SELECT s.id, counted.is_full
    FROM counted
    JOIN source s ON s.id = counted.id
    WHERE s.held_full <> counted.is_full
    FOR NO KEY UPDATE OF s SKIP LOCKED
),
changed AS (
    UPDATE source s
    SET held_full = changes.is_full
    FROM changes
    WHERE s.id = changes.id
    RETURNING s.id, s.held_full
)
SELECT
    (SELECT id FROM counted ORDER BY id DESC LIMIT 1) AS last, (SELECT COUNT(*) FROM counted) AS counted,
    ARRAY(SELECT id::TEXT FROM changed WHERE held_full) AS reached, ARRAY(SELECT id::TEXT FROM changed WHERE NOT held_full) AS dropped
