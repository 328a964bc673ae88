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
	if r.Outcome == nil && p.State != promise.Pending { // the deadline has passed and is not recorded yet
		p.ResolvedAt = p.TimeoutAt
		p.SettledBy = &promise.By{Kind: promise.KindDeadline}
	}
	if p.SettledBy != nil && p.SettledBy.Kind == promise.KindDeadline { // earlier releases also copied them into value and error
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

func (r promiseRow) unrecordedDeadlines() []unrecordedDeadline {
	if r.Outcome != nil || r.state() == promise.Pending {
		return nil
	}
	return []unrecordedDeadline{{r.ID, r.WorkflowExecutionID, *r.TimeoutAt}}
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

// Create creates the promise that the draft describes. In the same transaction it
// registers the workflow execution under the tenant, if it is new, and the
// idempotency key. The database generates the id. If the key has an early
// settlement, the promise is created settled with it.
//
// The promise gets a delivery for each target. If a target's destination does not
// exist, or is of another kind, the error is CodeUnknownDestination; if the service
// has disabled it, CodeDestinationDisabled. Field names the target.
//
// If (workflow execution, name) exists with the same key, metadata, default outcome
// and targets, Create returns the existing promise, pending or not, and New is false.
// If one of them differs, the error is CodeCreateConflict. An erased promise has
// neither metadata nor a default outcome, so only its key and targets are compared.
// The tokens of targets are not compared: the new ones replace the former ones, and
// if the promise is settled, a delivery with a new token is due at once. If the key
// belongs to another promise, the error is CodeKeyConflict. Both errors carry
// ExistingPromiseID.
//
// The error is CodeQuotaExceeded if the tenant already has as many pending
// promises as it may have, or the workflow execution as many promises. An existing
// promise is returned even then. A promise that is created settled does not count
// as pending.
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
		return confirm(ctx, r, "create promise", createSQL, withAwaited(named{
			"tenant": tenant, "workflow": d.WorkflowExecutionID.String(), "external_id": d.ExternalID, "name": d.Name,
			"key": d.IdempotencyKey, "key_ttl": d.IdempotencyKeyTTL, "timeout": d.Timeout, "timeout_at": d.TimeoutAt, "metadata": metadata,
			"deadline_outcome": nullIfEmpty(string(onTimeout.State)), "deadline_value": onTimeout.Value, "deadline_error": onTimeout.Message,
			"workflow_limit": defaultOf(promise.LimitWorkflowPromises),
			"notify":         targetTexts(d.Notify),
		}), one[createRow])
	}
	row, err := create()
	if err == nil && row.Found == "workflow_full" && r.recounted(ctx, d.WorkflowExecutionID) {
		row, err = create()
	}
	if err != nil {
		return promise.CreateResult{}, targetError(err)
	}
	differs := ""
	switch {
	case row.Found == "pending_full":
		return promise.CreateResult{}, r.quotaExceeded(ctx, tenant, promise.LimitPending)
	case row.Found == "workflow_full":
		return promise.CreateResult{}, r.quotaExceeded(ctx, tenant, promise.LimitWorkflowPromises)
	case row.Found == "key_holder":
		return promise.CreateResult{}, keyConflict(row.ID)
	case !row.SameKey:
		differs = "idempotency key"
	case row.ErasedAt != nil: // its metadata and default outcome are gone
	case !row.SameMetadata:
		differs = "metadata"
	case !row.SameOnTimeout:
		differs = "default outcome"
	}
	if differs != "" {
		return promise.CreateResult{}, createConflict(row.ID, differs)
	}
	return promise.CreateResult{
		Promise: row.promise(), New: row.Found == "created", EarlyExpired: row.EarlyExpired, TokensRevokedAt: row.TokensRevokedAt,
	}, nil
}

type createRow struct {
	promiseRow
	Found         string // created, existing, key_holder, pending_full or workflow_full
	KeyUncertain  bool   `db:"doubtful"` // a running extension may still keep the key with the key_holder
	SameKey       bool
	SameMetadata  bool
	SameOnTimeout bool
	EarlyExpired  bool `db:"lost_hold"`

	TokensRevokedAt *time.Time
}

func (r createRow) unrecordedDeadlines() []unrecordedDeadline {
	if r.Found == "existing" || r.KeyUncertain {
		return r.promiseRow.unrecordedDeadlines()
	}
	return nil
}

// Get returns a promise with its deliveries. Its deadline is judged by the database's
// clock.
func (r *Repository) Get(ctx context.Context, tenant string, i promise.Identifier) (promise.Promise, error) {
	row, err := confirm(ctx, r, "get promise", getSQL, ofPromise(i, named{"tenant": tenant}), one[getRow])
	if err != nil {
		return promise.Promise{}, err
	}
	p := row.promise()
	p.Deliveries = deliveriesOf(row.Deliveries)
	return p, nil
}

type getRow struct {
	promiseRow
	Deliveries []deliveryRow // a JSON array; nil: the promise has no targets
}

// GetByWorkflowAndName returns the promise of that name in a workflow execution,
// without its deliveries.
func (r *Repository) GetByWorkflowAndName(
	ctx context.Context, tenant string, workflowExecutionID uuid.UUID, name string,
) (promise.Promise, error) {
	row, err := confirm(ctx, r, "get promise by workflow and name", getByWorkflowAndNameSQL, named{
		"tenant": tenant, "workflow": workflowExecutionID.String(), "name": name,
	}, one[promiseRow])
	if err != nil {
		return promise.Promise{}, err
	}
	return row.promise(), nil
}

// Extend sets a pending promise's deadline, whether or not it had one, and
// returns the updated promise. A deadline in the past settles the promise at once.
// The deadline that the promise already has changes nothing and adds no event. If
// the promise is not pending, Extend does not change it; the error is
// CodeConflict, CodeTimedOut or CodeCancelled, with SettleResult.
func (r *Repository) Extend(
	ctx context.Context, tenant string, i promise.Identifier, d promise.Deadline,
) (promise.Promise, error) {
	row, err := confirm(ctx, r, "extend promise", extendSQL, ofPromise(i, named{
		"tenant": tenant, "timeout": d.Timeout, "timeout_at": d.At,
	}), one[extendRow])
	if err != nil {
		return promise.Promise{}, err
	}
	p := row.promise()
	switch {
	case row.Pending && !row.Extended && (d.At == nil || p.TimeoutAt == nil || !p.TimeoutAt.Equal(d.At.Truncate(time.Microsecond))):
		// The workflow execution was deleted while the statement ran.
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

func (r extendRow) unrecordedDeadlines() []unrecordedDeadline {
	if r.Extended {
		return nil
	}
	return r.promiseRow.unrecordedDeadlines()
}

// Erase erases the contents of a settled promise: value, error, metadata,
// comment and default outcome. It returns the erased promise. A second call
// changes nothing. A pending promise is not changed; the error is CodeConflict.
func (r *Repository) Erase(ctx context.Context, tenant string, i promise.Identifier) (promise.Promise, error) {
	row, err := confirm(ctx, r, "erase promise", eraseSQL, ofPromise(i, named{"tenant": tenant}), one[promiseRow])
	switch {
	case err != nil:
		return promise.Promise{}, err
	case row.ErasedAt == nil:
		return promise.Promise{}, promise.Fail(promise.CodeConflict, "The promise is pending. Cancel it first, then delete it.")
	}
	return row.promise(), nil
}

// nullIfEmpty returns nil, which is NULL in a statement, for an empty text.
func nullIfEmpty(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}
