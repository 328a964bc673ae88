package repository

import (
	"context"
	_ "embed" // the queries
	"errors"
	"time"

	"github.com/google/uuid"

	"github.com/flovyn/promises/shared/promise"
)

//go:embed queries/list_promises.sql
var listPromisesSQL string

//go:embed queries/list_promises_of_workflow.sql
var listPromisesOfWorkflowSQL string

//go:embed queries/list_promises_due.sql
var listPromisesDueSQL string

//go:embed queries/list_events.sql
var listEventsSQL string

// pageBytes bounds the values and metadata of a page.
const pageBytes = 3 << 20

// ListPromises lists the promises that the filter chooses, newest first, or, with
// TimeoutBefore, the soonest deadline first. A page ends after limit promises or
// about 3 MiB of values and metadata, but never before its first; more says that
// others follow. A workflow execution that is not known, or another tenant's, has
// none. A filter that Filter does not allow is an error.
//
// A page reads no more promises than it shows, and besides those of the tenant
// whose deadlines have passed and are not recorded yet.
func (r *Repository) ListPromises(
	ctx context.Context, tenant string, f promise.Filter, limit int,
) (promises []promise.Promise, more bool, err error) {
	if err := f.Check(); err != nil {
		return nil, false, err
	}
	if f.Name != nil {
		promises, err = r.listByName(ctx, tenant, f)
		return promises, false, err
	}
	rows, err := r.listConfirmed(ctx, listStatement(tenant, f, limit))
	if err != nil {
		return nil, false, err
	}
	if len(rows) == 0 {
		_, err := r.tenantID(ctx, tenant)
		return nil, false, err
	}
	more = rows[0].Matching > min(len(rows), limit)
	rows = rows[:min(len(rows), limit)]
	for _, row := range rows {
		promises = append(promises, row.promise())
	}
	return promises, more, nil
}

func listStatement(tenant string, f promise.Filter, limit int) statement {
	var afterAt *time.Time
	var afterID *string
	if f.After != nil {
		at, id := f.After.At(), f.After.ID.String()
		afterAt, afterID = &at, &id
	}
	page := []any{afterAt, afterID, limit + 1, pageBytes}
	switch {
	case f.TimeoutBefore != nil:
		return statement{op: "list promises due", sql: listPromisesDueSQL, args: append([]any{tenant, f.TimeoutBefore}, page...)}
	case f.WorkflowExecutionID != nil:
		return statement{op: "list promises of workflow", sql: listPromisesOfWorkflowSQL, args: append([]any{
			tenant, f.WorkflowExecutionID.String(), f.State,
		}, page...)}
	}
	return statement{op: "list promises", sql: listPromisesSQL, args: append([]any{tenant, f.State}, page...)}
}

// listByName lists the one promise that may have a name in a workflow execution.
func (r *Repository) listByName(ctx context.Context, tenant string, f promise.Filter) ([]promise.Promise, error) {
	p, err := r.GetByWorkflowAndName(ctx, tenant, *f.WorkflowExecutionID, *f.Name)
	if errors.Is(err, promise.ErrNotFound) {
		_, err := r.tenantID(ctx, tenant)
		return nil, err
	}
	if err != nil || f.State != nil && *f.State != p.State || f.After != nil && !f.After.Precedes(p) {
		return nil, err
	}
	return []promise.Promise{p}, nil
}

type listRow struct {
	promiseRow
	Matching int
}

// listConfirmed runs a list until every deadline in it that nothing has recorded
// stands, as run does for one promise.
func (r *Repository) listConfirmed(ctx context.Context, s statement) ([]listRow, error) {
	confirmed := map[uuid.UUID]time.Time{}
	for range attempts {
		rows, err := runAll[listRow](ctx, r, s)
		if err != nil {
			return nil, err
		}
		var unconfirmed []passed
		for _, row := range rows {
			if deadline, overdue := row.overdue(); overdue && !confirmed[deadline.promiseID].Equal(deadline.at) {
				confirmed[deadline.promiseID] = deadline.at
				unconfirmed = append(unconfirmed, deadline)
			}
		}
		if len(unconfirmed) == 0 {
			return rows, nil
		}
		if err := r.awaitSettlements(ctx, s.op, unconfirmed...); err != nil {
			return nil, err
		}
	}
	return nil, contention(nil)
}

// ListEvents reads a workflow execution's log after a sequence number, in
// order: at most limit events, or about 3 MiB of values. Numbers are dense and
// become visible in their order, so whoever goes on after the last one that it
// has seen sees each event once. Events are deleted with their promises.
//
// A number beyond the log's last one is CodeOutOfRange: it is from another log,
// or this one was deleted and has begun anew.
func (r *Repository) ListEvents(
	ctx context.Context, tenant string, workflowExecutionID uuid.UUID, after int32, limit int,
) ([]promise.Event, error) {
	rows, err := runAll[eventRow](ctx, r, statement{op: "list events", sql: listEventsSQL, args: []any{
		tenant, workflowExecutionID.String(), after, limit, pageBytes,
	}})
	switch {
	case err != nil:
		return nil, err
	case len(rows) == 0:
		return nil, promise.ErrNotFound
	case rows[0].LastSequenceNumber < after:
		return nil, &promise.Error{
			Code: promise.CodeOutOfRange, Field: "after",
			Detail: "The log does not reach that number: it is from another log, or this one has begun anew.",
		}
	}
	var events []promise.Event
	for _, row := range rows {
		if row.SequenceNumber != nil {
			events = append(events, row.event())
		}
	}
	return events, nil
}

type eventRow struct {
	LastSequenceNumber int32
	SequenceNumber     *int32
	EventType          *promise.EventType
	PromiseID          *uuid.UUID
	Name               *string
	CreatedAt          *time.Time
	TimeoutAt          *time.Time
	Outcome            *promise.State
	Value              []byte
	Error              *string
	SettledByKind      *promise.PrincipalKind
	SettledByID        *string
	Comment            *string
	ErasedAt           *time.Time
}

func (r eventRow) event() promise.Event {
	e := promise.Event{
		SequenceNumber: *r.SequenceNumber, Type: *r.EventType, PromiseID: *r.PromiseID, CreatedAt: *r.CreatedAt, TimeoutAt: r.TimeoutAt,
		ErasedAt: r.ErasedAt,
	}
	if r.Name != nil {
		e.PromiseName = *r.Name
	}
	if r.Outcome != nil {
		e.Settlement = &promise.SettleRequest{Result: promise.Result{State: *r.Outcome, Value: r.Value, Message: r.Error}, Comment: r.Comment}
		if by := settledBy(r.SettledByKind, r.SettledByID); by != nil {
			e.Settlement.By = *by
		}
	}
	return e
}
