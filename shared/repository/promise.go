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

//go:embed queries/extend.sql
var extendSQL string

//go:embed queries/erase.sql
var eraseSQL string

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
	TimeoutOutcome      *promise.State
	TimeoutValue        []byte
	TimeoutError        *string
	SettledByKind       *promise.PrincipalKind
	SettledByID         *string
	Comment             *string
	ErasedAt            *time.Time
	ExternalID          *string
	ReadAt              time.Time
}

func (r promiseRow) promise() promise.Promise {
	p := promise.Promise{
		ID:                  r.ID,
		WorkflowExecutionID: r.WorkflowExecutionID,
		ExternalID:          r.ExternalID,
		Name:                r.Name,
		State:               r.state(),
		Value:               r.Value,
		Message:             r.Error,
		Metadata:            r.Metadata,
		IdempotencyKey:      r.IdempotencyKey,
		TimeoutAt:           r.TimeoutAt,
		OnTimeout:           r.onTimeout(),
		CreatedAt:           r.CreatedAt,
		ResolvedAt:          r.ResolvedAt,
		SettledBy:           settledBy(r.SettledByKind, r.SettledByID),
		Comment:             r.Comment,
		ErasedAt:            r.ErasedAt,
		CreatedBySequence:   r.CreatedBySequence,
		ResolvedBySequence:  r.ResolvedBySequence,
	}
	if r.Outcome == nil && p.State != promise.Pending { // its deadline has passed, and nothing has recorded it
		p.ResolvedAt = p.TimeoutAt
		p.SettledBy = &promise.By{Kind: promise.KindDeadline}
	}
	if p.SettledBy != nil && p.SettledBy.Kind == promise.KindDeadline { // earlier releases copied them into value and error, too
		p.Value, p.Message = r.TimeoutValue, r.TimeoutError
	}
	return p
}

func (r promiseRow) state() promise.State {
	return promise.Judge(r.Outcome, r.TimeoutAt, r.onTimeout(), r.ReadAt)
}

func (r promiseRow) onTimeout() *promise.Result {
	if r.TimeoutOutcome == nil {
		return nil
	}
	return &promise.Result{State: *r.TimeoutOutcome, Value: r.TimeoutValue, Message: r.TimeoutError}
}

func (r promiseRow) overdue() (passed, bool) {
	if r.Outcome != nil || r.state() == promise.Pending {
		return passed{}, false
	}
	return passed{r.ID, r.WorkflowExecutionID, *r.TimeoutAt}, true
}

func settledBy(kind *promise.PrincipalKind, id *string) *promise.By {
	if kind == nil {
		return nil
	}
	by := promise.By{Kind: *kind}
	if id != nil {
		by.ID = *id
	}
	return &by
}

// Create creates the promise that the draft describes, registers its workflow
// execution under the tenant if it is not known yet, and registers its
// idempotency key: all of it or nothing. The database generates the id. Where
// the key holds a settlement, the promise is born settled with it.
//
// New is false where (workflow execution, name) existed with the same key,
// metadata and default outcome; the existing promise is returned, whatever its
// state. With others it is CodeCreateConflict; a key that belongs to another
// promise is CodeKeyConflict. Both carry ExistingPromiseID. An erased promise has
// neither metadata nor a default outcome to compare: its name and key decide.
// CodeQuotaExceeded: the tenant, or the workflow execution, has as many promises
// as it may have; an existing promise is returned all the same, and one that
// would be born settled does not count as pending.
func (r *Repository) Create(ctx context.Context, tenant string, d promise.Draft) (promise.CreateResult, error) {
	var metadata *string
	if d.Metadata != nil {
		s := string(d.Metadata)
		metadata = &s
	}
	onTimeout := promise.Result{}
	if d.OnTimeout != nil {
		onTimeout = *d.OnTimeout
	}
	create := func() (createRow, error) {
		return run[createRow](ctx, r, statement{op: "create", sql: createSQL, confirms: true, args: []any{
			tenant, d.WorkflowExecutionID.String(), d.ExternalID, d.Name, d.IdempotencyKey, d.IdempotencyKeyTTL, d.Timeout, d.TimeoutAt, metadata,
			orNull(string(onTimeout.State)), onTimeout.Value, onTimeout.Message, defaultOf(promise.LimitWorkflowPromises), false,
		}})
	}
	row, err := create()
	if err == nil && row.Found == "workflow_full" && r.recounted(ctx, d.WorkflowExecutionID) {
		row, err = create()
	}
	if err != nil {
		return promise.CreateResult{}, err
	}
	what := ""
	switch {
	case row.Found == "pending_full":
		return promise.CreateResult{}, r.quotaExceeded(ctx, tenant, promise.LimitPending)
	case row.Found == "workflow_full":
		return promise.CreateResult{}, r.quotaExceeded(ctx, tenant, promise.LimitWorkflowPromises)
	case row.Found == "key_holder":
		return promise.CreateResult{}, keyConflict(row.ID)
	case !row.SameKey:
		what = "idempotency key"
	case row.ErasedAt != nil: // nothing is left to compare
	case !row.SameMetadata:
		what = "metadata"
	case !row.SameOnTimeout:
		what = "default outcome"
	}
	if what != "" {
		return promise.CreateResult{}, &promise.Error{
			Code: promise.CodeCreateConflict, Detail: "The promise exists already, with another " + what + ".",
			ExistingPromiseID: row.ID,
		}
	}
	return promise.CreateResult{
		Promise: row.promise(), New: row.Found == "created", EarlyExpired: row.LostHold, TokensRevokedAt: row.TokensRevokedAt,
	}, nil
}

type createRow struct {
	promiseRow
	Found         string // created, existing, key_holder, pending_full or workflow_full
	Doubtful      bool   // whether the key_holder still holds the key
	SameKey       bool
	SameMetadata  bool
	SameOnTimeout bool
	LostHold      bool

	TokensRevokedAt *time.Time
}

func (r createRow) overdue() (passed, bool) {
	if r.Found == "existing" || r.Doubtful {
		return r.promiseRow.overdue()
	}
	return passed{}, false
}

// Get reads a promise, and judges the deadline by the database's clock.
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

// Extend moves a pending promise's deadline, or sets its first one, and returns
// the promise as it is then; a deadline in the past ends it at once. One that it
// has already is not set again. A promise that is not pending is CodeConflict,
// CodeTimedOut or CodeCancelled, with Settled, and stays as it is.
func (r *Repository) Extend(
	ctx context.Context, tenant string, i promise.Identifier, d promise.Deadline,
) (promise.Promise, error) {
	id, key := arguments(i)
	row, err := run[extendRow](ctx, r, statement{
		op: "extend", sql: extendSQL, args: []any{tenant, id, key, d.Timeout, d.At}, identifies: true,
	})
	if err != nil {
		return promise.Promise{}, err
	}
	p := row.promise()
	switch {
	case row.Pending && !row.Extended && (d.At == nil || p.TimeoutAt == nil || !p.TimeoutAt.Equal(d.At.Truncate(time.Microsecond))):
		// its workflow execution was deleted meanwhile
		return promise.Promise{}, promise.ErrNotFound
	case !row.Pending:
		byDeadline := p.SettledBy != nil && p.SettledBy.Kind == promise.KindDeadline
		s := promise.SettleResult{PromiseID: p.ID, State: p.State, Outcome: promise.OutcomeAgainst(p.State, byDeadline, false)}
		return promise.Promise{}, promise.NotPending(s)
	}
	return p, nil
}

type extendRow struct {
	promiseRow
	Pending  bool
	Extended bool
}

func (r extendRow) overdue() (passed, bool) {
	if r.Extended {
		return passed{}, false
	}
	return r.promiseRow.overdue()
}

// Erase erases the contents of a settled promise: value, error, metadata,
// comment and default outcome. It returns the promise as it is then; a promise
// that was erased before stays as it is. A pending promise is CodeConflict, and
// stays as it is.
func (r *Repository) Erase(ctx context.Context, tenant string, i promise.Identifier) (promise.Promise, error) {
	id, key := arguments(i)
	row, err := run[promiseRow](ctx, r, statement{op: "erase", sql: eraseSQL, args: []any{tenant, id, key}, identifies: true})
	switch {
	case err != nil:
		return promise.Promise{}, err
	case row.ErasedAt == nil:
		return promise.Promise{}, promise.Fail(promise.CodeConflict, "The promise is pending. Cancel it first, then delete it.")
	}
	return row.promise(), nil
}

// arguments gives the id and the key as the statements take them: one is NULL.
func arguments(i promise.Identifier) (id, key *string) {
	if k, ok := i.IdempotencyKey(); ok {
		return nil, &k
	}
	u, _ := i.ID()
	s := u.String()
	return &s, nil
}

// orNull gives an empty text as the statements take none.
func orNull(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}
