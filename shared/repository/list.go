package repository

import (
	"context"
	_ "embed" // the queries
	"errors"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

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

// pageBytes bounds the bytes of values and metadata on a page.
const pageBytes = 3 << 20

// ListPromises lists the promises that match the filter: newest first, or soonest
// deadline first if TimeoutBefore is set. A page ends after limit promises, or
// about 3 MiB of values and metadata, but has at least one promise if any match.
// more reports whether others follow. A workflow execution that is unknown, or
// belongs to another tenant, has no promises. If the filter is invalid,
// ListPromises returns the error of its Check.
//
// A page reads only the promises that it shows, and the tenant's promises with an
// unrecorded deadline.
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
	op, sql, a := listStatement(tenant, f, limit)
	rows, err := confirm(ctx, r, op, sql, a, collectList)
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

func listStatement(tenant string, f promise.Filter, limit int) (op, sql string, a named) {
	a = named{"tenant": tenant, "after_at": nil, "after_id": nil, "limit": limit + 1, "bytes": pageBytes}
	if f.After != nil {
		a["after_at"], a["after_id"] = f.After.At(), f.After.ID.String()
	}
	switch {
	case f.TimeoutBefore != nil:
		a["before"] = f.TimeoutBefore
		return "list promises due", listPromisesDueSQL, a
	case f.WorkflowExecutionID != nil:
		a["workflow"], a["state"] = f.WorkflowExecutionID.String(), f.State
		return "list promises of workflow", listPromisesOfWorkflowSQL, a
	}
	a["state"] = f.State
	return "list promises", listPromisesSQL, a
}

// listByName lists the promise of a name in a workflow execution, if the filter
// matches it.
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

type listRows []listRow

func collectList(rows pgx.Rows, err error) (listRows, error) { return all[listRow](rows, err) }

func (rows listRows) unrecordedDeadlines() (all []unrecordedDeadline) {
	for _, row := range rows {
		all = append(all, row.unrecordedDeadlines()...)
	}
	return all
}

// ListEvents reads a workflow execution's log after a sequence number, in order:
// at most limit events, or about 3 MiB of values. Numbers have no gaps and become
// visible in order. A reader that continues after the last number it has seen
// reads each event exactly once. Events are deleted with their promises.
//
// If after is beyond the log's last number, the error is CodeOutOfRange: the number
// is from another log, or this log was deleted and has started again.
func (r *Repository) ListEvents(
	ctx context.Context, tenant string, workflowExecutionID uuid.UUID, after int32, limit int,
) ([]promise.Event, error) {
	rows, err := run(ctx, r, "list events", listEventsSQL, named{
		"tenant": tenant, "workflow": workflowExecutionID.String(), "after": after, "limit": limit, "bytes": pageBytes,
	}, all[eventRow])
	switch {
	case err != nil:
		return nil, err
	case len(rows) == 0:
		return nil, promise.ErrNotFound
	case rows[0].LastSequenceNumber < after:
		return nil, &promise.Error{
			Code: promise.CodeOutOfRange, Field: "after",
			Detail: "after is beyond the log's last event: it is from another log, or this log has started again. Read from 0.",
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
