SELECT promise_id, workflow_execution_id, state, COALESCE(by_deadline, FALSE) AS by_deadline, COALESCE(same, FALSE) AS same,
       settled, overdue_since
FROM promise_settle($1, $2, $3, $4, $5, $6, $7, $8, $9)
WHERE promise_id IS NOT NULL
