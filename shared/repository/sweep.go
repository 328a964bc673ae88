package repository

import (
	"context"
	_ "embed" // the queries
	"time"

	"github.com/google/uuid"

	"github.com/flovyn/promises/shared/promise"
)

//go:embed queries/expire.sql
var expireSQL string

//go:embed queries/expire_workflow.sql
var expireWorkflowSQL string

//go:embed queries/delete_empty_workflows.sql
var deleteEmptyWorkflowsSQL string

//go:embed queries/delete_settled.sql
var deleteSettledSQL string

// Expire records at most limit deadlines that have passed, and appends their
// PROMISE_TIMEOUT events. If more are due, the tenants take turns: each tenant's
// first deadline comes before any other tenant's second. Expire skips locked rows
// until the next call. Calls may run concurrently.
func (r *Repository) Expire(ctx context.Context, limit int) (promise.ExpireResult, error) {
	return run(ctx, r, "expire promises", expireSQL, named{"limit": limit}, one[promise.ExpireResult])
}

// ExpireWorkflow records at most limit deadlines of one workflow execution, as
// Expire does. It waits for the workflow execution's row, and skips locked promises.
func (r *Repository) ExpireWorkflow(ctx context.Context, workflowExecutionID uuid.UUID, limit int) (promise.ExpireResult, error) {
	return run(ctx, r, "expire workflow", expireWorkflowSQL, named{
		"workflow": workflowExecutionID.String(), "limit": limit,
	}, one[promise.ExpireResult])
}

type deletedRow struct {
	Promises             int
	Keys                 int
	Events               int
	Workflows            int
	WorkflowExecutionIDs []string
}

// DeleteSettled deletes at most limit promises of all tenants whose settlement
// was recorded longer than age ago, with their keys and events. It also deletes
// the workflow executions that this leaves empty. It deletes fewer than limit if no
// more are due or other transactions have locked the rest. If it returns an error,
// it may have deleted some rows.
//
// A second statement checks the workflow executions that still had promises. If
// two calls delete the last promises of one at the same time, neither statement
// sees it empty, but the later second statement does.
func (r *Repository) DeleteSettled(ctx context.Context, age time.Duration, limit int) (promise.Deleted, error) {
	row, err := run(ctx, r, "delete settled", deleteSettledSQL, named{"age": age, "limit": limit}, one[deletedRow])
	d := promise.Deleted{Promises: row.Promises, Keys: row.Keys, Events: row.Events, Workflows: row.Workflows}
	if err != nil || len(row.WorkflowExecutionIDs) == 0 {
		return d, err
	}
	tag, err := r.db.Exec(ctx, deleteEmptyWorkflowsSQL, named{"workflows": row.WorkflowExecutionIDs})
	if err != nil {
		return d, interpret("delete empty workflows", err)
	}
	d.Workflows += int(tag.RowsAffected())
	return d, nil
}
