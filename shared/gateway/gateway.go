// Package gateway translates between Lambda and the domain. Each function takes
// both forms of call:
//
//   - an API Gateway HTTP API event (payload format 2.0), answered with status,
//     headers and body; only API Gateway may send it (Handler.HTTPAlias), and a
//     function without a route takes none;
//   - a direct invoke, {"tenant": slug, "promiseId" or "key", ...the body's
//     fields}, answered with the HTTP body alone. Its errors are Lambda function
//     errors: errorType is the problem's code, errorMessage the problem's JSON.
//
// Input is taken literally or refused: a field that is unknown, doubled,
// missing, null, of another type or spelt in another case is an error, and
// nothing is written.
package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-lambda-go/lambdacontext"
	"github.com/google/uuid"

	"github.com/flovyn/promises/shared/promise"
)

// Store keeps the promises. Its errors are *promise.Error, or faults.
type Store interface {
	Create(ctx context.Context, tenant string, d promise.Draft) (promise.CreateResult, error)
	Get(ctx context.Context, tenant string, i promise.Identifier) (promise.Promise, error)
	Settle(ctx context.Context, tenant string, i promise.Identifier, s promise.SettleRequest) (promise.SettleResult, error)
	SettleEarly(ctx context.Context, tenant, key string, s promise.SettleRequest, hold time.Duration) (promise.SettleResult, error)
	SettleBatch(ctx context.Context, tenant string, by promise.By, items []promise.Item) ([]promise.ItemResult, error)
	Extend(ctx context.Context, tenant string, i promise.Identifier, d promise.Deadline) (promise.Promise, error)
	WorkflowExecutionID(ctx context.Context, tenant, externalID string) (uuid.UUID, error)
	RevokeTokens(ctx context.Context, tenant string, i promise.Identifier) (promise.TokensRevoked, error)
	FindTenant(ctx context.Context, slug string) (promise.Tenant, error)
	Erase(ctx context.Context, tenant string, i promise.Identifier) (promise.Promise, error)
	ListPromises(ctx context.Context, tenant string, f promise.Filter, limit int) (promises []promise.Promise, more bool, err error)
	ListEvents(
		ctx context.Context, tenant string, workflowExecutionID uuid.UUID, after int32, limit int,
	) ([]promise.Event, error)
	BeginWait(ctx context.Context, tenant string, id uuid.UUID, longest time.Duration, limit int) (counted bool, err error)
	KeepWait(ctx context.Context, tenant string, id uuid.UUID, limit int) (bool, error)
	EndWait(ctx context.Context, tenant string, id uuid.UUID) error
}

// Operation is one thing that can be asked of the service.
type Operation struct {
	name         string
	body         []string // the fields of the HTTP body; nil: none is read
	bodyOptional bool     // no body is an empty one
	parameters   []string // of the query; fields of the direct form
	checkIdentifier   func(promise.Identifier) error
	needs        promise.Need
	callback     bool              // it takes calls of callback URLs, and verifies their tokens
	ofWorkflow   bool              // it is about a workflow execution, not a promise
	directOnly     bool              // no route leads to it: it takes direct invokes alone
	redirects    map[string]string // parameters of another operation, with a detail that points to it
	do           func(ctx context.Context, h *Handler, c *call) (answer, error)
}

// answer is what a call is answered with, in either form.
type answer struct {
	status     int
	body       []byte
	retryAfter int // HTTP form: when the caller may repeat the call, in seconds; 0: the answer does not say
}

// SignToken makes a promise token.
type SignToken func(TokenRequest) (string, error)

// TokenRequest describes a promise token that is to be signed.
type TokenRequest struct {
	Tenant    string
	PromiseID uuid.UUID
	Verbs     []promise.Verb
	TTL       time.Duration
	APIKeyID  uuid.UUID  // the API key that asked for it; uuid.Nil: a direct invoke did
	RevokedAt *time.Time // promise.Created's TokensRevokedAt
	RawBody   bool       // see promise.Principal
}

// Handler answers the calls of one operation. It implements lambda.Handler, and
// is safe for concurrent use.
type Handler struct {
	Operation     Operation
	Store         Store
	MaxValueBytes int // limit of a value or an error, as JSON text
	// Signer gives what makes promise tokens; nil: none are made. Its error says
	// that it cannot at the moment.
	Signer func(context.Context) (SignToken, error)

	// Authenticate looks up a credential: the Authorization header where the
	// authorizer could not, or the token of a callback URL.
	Authenticate func(ctx context.Context, source string, inHeader bool) (promise.Principal, error)

	// HTTPAlias is the alias through which API Gateway invokes the function. The caller of any other invocation has
	// written its payload itself, so that an event in it is refused. Empty: every event is believed.
	HTTPAlias string

	// MaxWaits bounds the calls of one tenant that wait at once, over all processes, if the tenant has no limit of its own.
	MaxWaits int

	PublicURL string // where the HTTP API is reached from outside, without a slash at the end; may be empty

	// Timeout is after how long a call that the database still keeps waiting is answered with CodeUnavailable: of the HTTP
	// form counted from when API Gateway took it, so that the authorizer's time is in it.
	Timeout time.Duration

	// Stopping is closed when the process is about to end: a call that waits then looks once more and answers. Nil: never.
	Stopping <-chan struct{}

	Log     *slog.Logger
	Metrics Metrics
}

// Metrics counts what happens.
type Metrics interface {
	Count(name string, n int64)
}

// Invoke answers one call of either form. Its error is a
// messages.InvokeResponse_Error, and comes with the direct form alone.
func (h *Handler) Invoke(ctx context.Context, payload []byte) ([]byte, error) {
	isHTTP := isEvent(payload)
	if isHTTP && !h.sentByGateway(ctx) {
		e := h.Operation.eventRefused()
		h.log(ctx, nil, e)
		return nil, functionError(e)
	}
	c, a, err := h.run(ctx, payload, isHTTP)
	if err != nil {
		e := promise.AsError(err)
		h.log(ctx, c, e)
		if !isHTTP {
			return nil, functionError(e)
		}
		return encodeProblem(e), nil
	}
	if !isHTTP {
		return a.body, nil
	}
	return encodeResponse(a, "application/json"), nil
}

// refuseEvent returns the error for an event that API Gateway did not send.
func (op Operation) eventRefused() *promise.Error {
	instead := "Send an object of these fields: " + strings.Join(op.directFields(), ", ") + "."
	if op.callback {
		instead = "Invoke resolve-by-id or reject."
	}
	return promise.Fail(promise.CodeForbidden, op.name+" takes no API Gateway event from a direct invoke. "+instead)
}

// believes reports whether an event that the function was invoked with is API
// Gateway's: the operation has a route, and the invoked ARN ends in the alias.
func (h *Handler) sentByGateway(ctx context.Context) bool {
	if h.Operation.directOnly || h.HTTPAlias == "" {
		return !h.Operation.directOnly
	}
	lc, ok := lambdacontext.FromContext(ctx)
	return ok && strings.HasSuffix(lc.InvokedFunctionArn, ":"+h.HTTPAlias) && strings.Count(lc.InvokedFunctionArn, ":") == 7
}

// run keeps a panic, and the stack that Lambda would tell of, from the caller.
func (h *Handler) run(ctx context.Context, payload []byte, isHTTP bool) (c *call, a answer, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v\n%s", r, debug.Stack())
		}
	}()
	switch {
	case isHTTP && h.Operation.callback:
		c, err = h.readCallback(ctx, payload)
	case isHTTP:
		c, err = h.readHTTP(ctx, payload)
	default:
		c, err = h.Operation.readDirect(payload)
	}
	if err != nil {
		return c, answer{}, err
	}
	if !isHTTP {
		c.answerBy = h.answerBy(time.Time{})
	}
	if !slices.Contains(h.Operation.parameters, "waitSeconds") { // what waits bounds each of its looks
		var stop context.CancelFunc
		ctx, stop = context.WithDeadline(ctx, c.answerBy)
		defer stop()
	}
	a, err = h.Operation.do(ctx, h, c)
	if errors.Is(err, promise.ErrNotFound) {
		if suspended := h.suspended(ctx, c); suspended != nil {
			err = suspended
		}
	}
	return c, a, err
}

// suspended returns an error if a direct invoke found nothing because its tenant is
// suspended: no statement finds such a tenant. The other forms of call have a
// credential, which was refused before.
func (h *Handler) suspended(ctx context.Context, c *call) error {
	if c.principal.Kind != promise.KindDirect {
		return nil
	}
	ctx, stop := context.WithDeadline(ctx, h.answerBy(time.Time{})) // a wait may have taken longer than the call's own
	defer stop()
	t, err := h.Store.FindTenant(ctx, c.tenant)
	switch {
	case errors.Is(err, promise.ErrNotFound):
		return nil
	case err != nil:
		return err
	case t.SuspendedAt != nil:
		return promise.Fail(promise.CodeForbidden, "The tenant is suspended.")
	}
	return nil
}

// deadline is when a call is over that was received then; the zero time: now.
// The work itself gets a quarter of Timeout however long everything before it
// has taken. A time that cannot be is none: of an event that is sent again, or by
// a clock that differs.
func (h *Handler) answerBy(received time.Time) time.Time {
	now := time.Now()
	spent := now.Sub(received)
	if spent < 0 || spent > gatewayTimeout {
		spent = 0
	}
	return now.Add(max(h.Timeout-spent, h.Timeout/4))
}

// gatewayTimeout is how long API Gateway waits for a function.
const gatewayTimeout = 30 * time.Second

// log tells of a failed call; c is nil where the call could not be read.
func (h *Handler) log(ctx context.Context, c *call, e *promise.Error) {
	attrs := []slog.Attr{slog.String("operation", h.Operation.name)}
	if c != nil {
		if p := c.principal; p.Kind == promise.KindDirect || p.Tenant == c.tenant { // or it is whatever the caller has written
			attrs = append(attrs, slog.String("tenant", c.tenant))
		}
		if id, ok := c.identifier.ID(); ok && id != uuid.Nil {
			attrs = append(attrs, slog.String("promiseId", id.String()))
		}
	}
	logFailure(ctx, h.Log, e, attrs...)
}

func logFailure(ctx context.Context, log *slog.Logger, e *promise.Error, attrs ...slog.Attr) {
	level := slog.LevelInfo
	if statuses[e.Code].status >= 500 {
		level = slog.LevelError
	}
	attrs = append(attrs, slog.String("code", string(e.Code)))
	if e.Cause != nil {
		attrs = append(attrs, slog.String("cause", e.Cause.Error()))
	}
	if lc, ok := lambdacontext.FromContext(ctx); ok {
		attrs = append(attrs, slog.String("requestId", lc.AwsRequestID))
	}
	log.LogAttrs(ctx, level, "call failed", attrs...)
}
