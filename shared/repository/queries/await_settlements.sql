-- Waits until no settlement of a workflow execution ($1) is under way: each holds this row's lock from before it judges
-- the deadline until it commits. Whatever is read after this, past a deadline, stays as it reads.
SELECT 1 FROM workflow_execution WHERE id = $1::UUID FOR SHARE
