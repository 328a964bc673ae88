package repository

import (
	"context"
	_ "embed" // the queries
	"time"

	"github.com/google/uuid"

	"github.com/flovyn/promises/shared/promise"
)

//go:embed queries/create.sql
var createSQL string

//go:embed queries/get.sql
var getSQL string

//go:embed queries/get_by_workflow_and_name.sql
var getByWorkflowAndNameSQL string

//go:embed queries/settle.sql
var settleSQL string

type promiseRow struct {
	ID                  uuid.UUID
	WorkflowExecutionID uuid.UUID
	Name                string
	Outcome             *promise.State
	Value               []byte
	Error               *string
	TimeoutAt           *time.Time
	CreatedAt           time.Time
	ResolvedAt          *time.Time
	CreatedBySequence   int32
	ResolvedBySequence  *int32
	Metadata            []byte
	IdempotencyKey      *string
	ReadAt              time.Time
}

func (r promiseRow) promise() promise.Promise {
	p := promise.Promise{
		ID:                  r.ID,
		WorkflowExecutionID: r.WorkflowExecutionID,
		Name:                r.Name,
		State:               promise.Judge(r.Outcome, r.TimeoutAt, r.ReadAt),
		Value:               r.Value,
		Error:               r.Error,
		Metadata:            r.Metadata,
		IdempotencyKey:      r.IdempotencyKey,
		TimeoutAt:           r.TimeoutAt,
		CreatedAt:           r.CreatedAt,
		ResolvedAt:          r.ResolvedAt,
		CreatedBySequence:   r.CreatedBySequence,
		ResolvedBySequence:  r.ResolvedBySequence,
	}
	if p.State == promise.TimedOut && p.ResolvedAt == nil {
		p.ResolvedAt = p.TimeoutAt
	}
	return p
}

func (r promiseRow) overdue() (promiseID, workflowExecutionID uuid.UUID, ok bool) {
	return r.ID, r.WorkflowExecutionID, r.Outcome == nil && promise.Judge(nil, r.TimeoutAt, r.ReadAt) == promise.TimedOut
}

// Create creates the promise that the draft describes, registers its workflow
// execution under the tenant if it is not known yet, and registers its
// idempotency key: all of it or nothing. The database generates the id.
//
// created is false where (workflow execution, name) existed with the same key
// and metadata; the existing promise is returned, whatever its state. With
// another key or metadata it is CodeCreateConflict; a key that belongs to
// another promise is CodeKeyConflict. Both carry ExistingPromiseID.
func (r *Repository) Create(
	ctx context.Context, tenant string, d promise.Draft,
) (p promise.Promise, created bool, err error) {
	var metadata *string
	if d.Metadata != nil {
		s := string(d.Metadata)
		metadata = &s
	}
	row, err := run[createRow](ctx, r, statement{op: "create", sql: createSQL, args: []any{
		tenant, d.WorkflowExecutionID.String(), d.Name, d.IdempotencyKey, d.IdempotencyKeyTTL, d.Timeout, d.TimeoutAt, metadata,
	}})
	if err != nil {
		return promise.Promise{}, false, err
	}
	switch {
	case row.Found == "key_holder":
		return promise.Promise{}, false, keyConflict(row.ID)
	case !row.SameKey || !row.SameMetadata:
		what := "idempotency key"
		if row.SameKey {
			what = "metadata"
		}
		return promise.Promise{}, false, &promise.Error{
			Code: promise.CodeCreateConflict, Detail: "The promise exists already, with another " + what + ".",
			ExistingPromiseID: row.ID,
		}
	}
	return row.promise(), row.Found == "created", nil
}

type createRow struct {
	promiseRow
	Found        string // created, existing or key_holder
	SameKey      bool
	SameMetadata bool
}

func (r createRow) overdue() (promiseID, workflowExecutionID uuid.UUID, ok bool) {
	if r.Found != "existing" {
		return uuid.Nil, uuid.Nil, false
	}
	return r.promiseRow.overdue()
}

// Get reads a promise, and judges the deadline by the
// database's clock.
func (r *Repository) Get(ctx context.Context, tenant string, i promise.Identifier) (promise.Promise, error) {
	id, key := arguments(i)
	row, err := run[promiseRow](ctx, r, statement{op: "get", sql: getSQL, args: []any{tenant, id, key}, identifies: true})
	if err != nil {
		return promise.Promise{}, err
	}
	return row.promise(), nil
}

// GetByWorkflowAndName reads the promise of that name in a workflow execution.
func (r *Repository) GetByWorkflowAndName(
	ctx context.Context, tenant string, workflowExecutionID uuid.UUID, name string,
) (promise.Promise, error) {
	row, err := run[promiseRow](ctx, r, statement{
		op: "get by workflow and name", sql: getByWorkflowAndNameSQL, args: []any{tenant, workflowExecutionID.String(), name},
	})
	if err != nil {
		return promise.Promise{}, err
	}
	return row.promise(), nil
}

// Resolve resolves a promise with a JSON text, which is kept byte for byte. It
// returns once the settlement is durable. A promise that is not pending is no
// error: the answer tells what stands.
func (r *Repository) Resolve(
	ctx context.Context, tenant string, i promise.Identifier, value []byte,
) (promise.Settled, error) {
	return r.settle(ctx, tenant, i, promise.Resolved, value, nil, "PROMISE_RESOLVED")
}

// Reject rejects a promise with an error, as Resolve resolves it.
func (r *Repository) Reject(
	ctx context.Context, tenant string, i promise.Identifier, message string,
) (promise.Settled, error) {
	return r.settle(ctx, tenant, i, promise.Rejected, nil, &message, "PROMISE_REJECTED")
}

func (r *Repository) settle(
	ctx context.Context, tenant string, i promise.Identifier,
	state promise.State, value []byte, message *string, event string,
) (promise.Settled, error) {
	id, key := arguments(i)
	row, err := run[settleRow](ctx, r, statement{
		op: "settle", sql: settleSQL, args: []any{tenant, id, key, string(state), value, message, event}, identifies: true,
	})
	if err != nil {
		return promise.Settled{}, err
	}
	switch {
	case row.Settled:
		return promise.Settled{PromiseID: row.PromiseID, State: state, Outcome: promise.OutcomeSettled}, nil
	case row.State == promise.Pending: // its workflow execution was deleted as it was about to be settled
		return promise.Settled{}, promise.ErrNotFound
	}
	return promise.Settled{PromiseID: row.PromiseID, State: row.State, Outcome: promise.Late(row.State, row.Same)}, nil
}

type settleRow struct {
	PromiseID           uuid.UUID
	WorkflowExecutionID uuid.UUID
	State               promise.State
	Same                bool
	Settled             bool
	Overdue             bool
}

func (r settleRow) overdue() (promiseID, workflowExecutionID uuid.UUID, ok bool) {
	return r.PromiseID, r.WorkflowExecutionID, r.Overdue
}

// arguments gives the id and the key as the statements take them: one is NULL.
func arguments(i promise.Identifier) (id, key *string) {
	if k, ok := i.Key(); ok {
		return nil, &k
	}
	u, _ := i.ID()
	s := u.String()
	return &s, nil
}
