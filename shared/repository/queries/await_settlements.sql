-- Waits until no settlement of these workflow executions ($1) is under way: each holds its row's lock from before it judges
-- the deadline until it commits. Whatever is read after this, past a deadline, stays as it reads.
SELECT 1 FROM workflow_execution WHERE id = ANY($1::TEXT[]::UUID[]) ORDER BY id FOR SHARE
