package gateway

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/google/uuid"

	"github.com/flovyn/promises/shared/promise"
)

// A Store stores the promises. It returns a *promise.Error for an expected failure.
// Every other error is a fault of the service.
type Store interface {
	Create(ctx context.Context, tenant string, d promise.Draft) (promise.CreateResult, error)
	Get(ctx context.Context, tenant string, i promise.Identifier) (promise.Promise, error)
	Settle(ctx context.Context, tenant string, i promise.Identifier, s promise.SettleRequest) (promise.SettleResult, error)
	SettleEarly(ctx context.Context, tenant, idempotencyKey string, s promise.SettleRequest, ttl time.Duration) (promise.SettleResult, error)
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
	ListDeliveries(
		ctx context.Context, tenant string, f promise.DeliveryFilter, limit int,
	) (deliveries []promise.Delivery, more bool, err error)
	RetryDelivery(ctx context.Context, tenant string, id uuid.UUID) (promise.Delivery, error)
	RetryDeadDeliveries(ctx context.Context, tenant, destination string, limit int) (retried int, more bool, err error)
	BeginWait(ctx context.Context, tenant string, id uuid.UUID, longest time.Duration, limit int) (counted bool, err error)
	KeepWait(ctx context.Context, tenant string, id uuid.UUID, limit int) (bool, error)
	EndWait(ctx context.Context, tenant string, id uuid.UUID) error
	DestinationStore
	SourceStore
}

// A SourceStore stores the sources of a tenant, and the receipts of their webhooks. The
// repository documents the methods' errors.
type SourceStore interface {
	PutSource(ctx context.Context, tenant string, p promise.SourcePut) (s promise.Source, secrets []promise.SourceSecret, created bool, err error)
	GetSource(ctx context.Context, tenant, name string) (promise.Source, []promise.SourceSecret, error)
	ListSources(ctx context.Context, tenant string) ([]promise.Source, error)
	DeleteSource(ctx context.Context, tenant, name string) (uuid.UUID, error)
	RotateSourceSecret(
		ctx context.Context, tenant, name string, r promise.Rotation, seal func(id uuid.UUID, version int) ([]byte, error),
	) (promise.Source, []promise.SourceSecret, error)
	Receive(ctx context.Context, tenant string, d promise.ReceiptDraft) (promise.ReceiptResult, error)
	PreviewReceipt(ctx context.Context, tenant string, d promise.ReceiptDraft) (promise.ReceiptResult, error)
	ListReceipts(ctx context.Context, tenant string, f promise.ReceiptFilter, limit int) (receipts []promise.Receipt, more bool, err error)
	GetReceipt(ctx context.Context, tenant string, id uuid.UUID) (promise.Receipt, *promise.KeptBody, error)
}

// A Webhooks verifies and judges the requests to sources. Its errors are *promise.Error,
// or faults of the service.
type Webhooks interface {
	// Segment returns the last part of a source's URL: its name and a checksum.
	Segment(ctx context.Context, tenant, name string) (string, error)

	// Verify verifies a request to the source that the last part of the URL names. Every
	// refusal is a WebhookRefused, after the same work. Verify records when the source last
	// received, verified and refused a request, and logs refusals. A source with a URL of its
	// own verifies by that, and not by r's.
	Verify(ctx context.Context, tenant, segment string, r promise.WebhookRequest) (VerifiedWebhook, error)

	// Forget makes the next Verify read the source again.
	Forget(tenant, name string)

	// VerifyAs verifies a request by a given source and its active secrets, and records
	// nothing. Its error of CodeUnauthenticated names the reason of a refusal; the request
	// then has no Verification.
	VerifyAs(ctx context.Context, s promise.Source, secrets []promise.SourceSecret, r promise.WebhookRequest) (VerifiedWebhook, error)

	// Judge applies the rules of a source's definition. each reports whether the request
	// has a list of items; otherwise there is one judgment. A definition that cannot be
	// compiled any more makes a failed judgment. An error means that the time was up.
	Judge(ctx context.Context, s promise.Source, in promise.WebhookInput) (items []promise.Judgment, each bool, err error)

	// Handshake answers a request by which the sender only checks the URL. ok is false for
	// every other request. body is the request's, decoded.
	Handshake(kind promise.Handshake, r promise.WebhookRequest, body []byte) (contentType string, answer []byte, ok bool)

	// SealBody encrypts a request that is kept, and OpenBody decrypts it.
	SealBody(ctx context.Context, id uuid.UUID, body []byte) ([]byte, error)
	OpenBody(ctx context.Context, kept promise.KeptBody) ([]byte, error)

	// CheckDefinition completes a definition by what its preset brings, and fails for one
	// that cannot work: the error's field is the place.
	CheckDefinition(name string, d *promise.SourceDefinition) error

	// NewSecret returns a secret of a source, and its sealed form. given is the secret, if
	// the sender has made it; nil: the service makes one. The error is CodeMissingField if
	// only the sender can make it.
	NewSecret(ctx context.Context, v promise.SourceVerifier, id uuid.UUID, version int, given *string) (secret string, sealed []byte, err error)

	// FitsSecret reports whether the newest secret of a source has the form that the
	// verifier needs. A secret that no sealing key opens counts as one that has.
	FitsSecret(ctx context.Context, v promise.SourceVerifier, id uuid.UUID, newest promise.SourceSecret) (bool, error)

	// SameSecret reports whether the newest secret of a source has this text. One that no
	// sealing key opens has another.
	SameSecret(ctx context.Context, id uuid.UUID, newest promise.SourceSecret, text string) (bool, error)
}

// WebhookRefused returns the error of a request to a source that is not verified. The
// caller sees no reason: the cause is for the log.
func WebhookRefused(cause error) error {
	return &promise.Error{
		Code: promise.CodeUnauthenticated, Cause: cause,
		Detail: "The request is not verified. Check the URL, the signing secret and the clock of the sender.",
	}
}

// A DestinationStore stores the destinations of a tenant. The repository documents the
// methods' errors.
type DestinationStore interface {
	DestinationPutter
	EnableDestination(ctx context.Context, tenant, name string, enabled bool) (promise.Destination, error)
	GetDestination(ctx context.Context, tenant, name string) (promise.Destination, []promise.DestinationSecret, error)
	RotateDestinationSecret(
		ctx context.Context, tenant, name string, r promise.Rotation, seal func(id uuid.UUID, version int) ([]byte, error),
	) (promise.Destination, []promise.DestinationSecret, error)
	SetDefaultDestination(ctx context.Context, tenant string, name *string) error
	BeginTest(ctx context.Context, tenant string, id uuid.UUID, longest time.Duration, limit int) (counted bool, err error)
	EndTest(ctx context.Context, id uuid.UUID) error
}

// A DestinationPutter is the part of a DestinationStore that manage-tenants uses, too.
type DestinationPutter interface {
	PutDestination(
		ctx context.Context, tenant string, d promise.Destination, enabled *bool, sealed []byte,
	) (put promise.Destination, created bool, err error)
	ListDestinations(ctx context.Context, tenant string) ([]promise.Destination, error)
	DeleteDestination(ctx context.Context, tenant, name string) (uuid.UUID, error)
}

// An Integrations has the functions that the operations on destinations need beside the
// store.
type Integrations struct {
	// CheckURL returns an error unless the service may send to the URL. Its text goes to
	// the caller, and contains no part of the URL.
	CheckURL func(url string) error

	// NewSecret returns a new signing secret, and its sealed form for this destination
	// and version.
	NewSecret func(ctx context.Context, destination uuid.UUID, version int) (secret string, sealed []byte, err error)

	// Test sends one signed test message and reports the receiver's answer. Its error
	// means that nothing is known about the receiver.
	Test func(ctx context.Context, tenant string, d promise.Destination, secrets []promise.DestinationSecret) (TestResult, error)
}

// A TestResult reports the attempt to send a test message.
type TestResult struct {
	Outcome string // such as delivered or failed
	Status  int    // the HTTP status; 0: there was no answer
	Error   string // why the attempt failed
}

// An Operation is one operation of the API, such as resolve. Each function serves
// one operation, or the members of one.
type Operation struct {
	name            string
	body            []string                       // the fields of the HTTP body; nil: the body is not read
	bodyOptional    bool                           // an absent body counts as an empty object
	parameters      []string                       // query parameters in the HTTP form, fields in the direct form
	checkIdentifier func(promise.Identifier) error // refuses identifiers that the operation does not take; nil: it takes none
	checkName       func(string) error             // refuses texts that cannot be the name of a destination or a source; nil: the call names none
	needs           promise.Need
	callback        bool              // it serves callback URLs, and verifies their tokens itself
	webhook         bool              // it serves the URLs of sources, and verifies their requests itself
	ofWorkflow      bool              // the call names a workflow execution, not a promise
	ofDelivery      bool              // the call may name a delivery
	directOnly      bool              // it has no route, and takes direct invokes alone
	redirects       map[string]string // parameters of another operation, each with a detail that names that operation
	ofReceipt       bool              // the call names a receipt
	route           string            // of a member: its route key; a direct invoke gives its name as the action
	ownTime         bool              // do bounds the call's time itself
	members         []Operation       // the operations of a function that serves several; then name is the function's
	do              func(ctx context.Context, h *Handler, c *call) (answer, error)
}

// An answer is the result of a successful call, in either form.
type answer struct {
	status     int
	body       []byte
	retryAfter int    // HTTP form: seconds until the caller may repeat the call; 0: no such header
	mediaType  string // HTTP form; empty: application/json
}

// A SignToken signs a promise token.
type SignToken func(TokenRequest) (string, error)

// A TokenRequest describes a promise token to sign.
type TokenRequest struct {
	Tenant    string
	PromiseID uuid.UUID
	Verbs     []promise.Verb
	TTL       time.Duration
	APIKeyID  uuid.UUID  // the API key that asked for it; uuid.Nil: a direct invoke asked
	RevokedAt *time.Time // promise.CreateResult's TokensRevokedAt
	RawBody   bool       // see promise.Principal
}

// A Handler answers the calls of one operation. It implements lambda.Handler, and
// is safe for concurrent use.
type Handler struct {
	Operation     Operation
	Store         Store
	MaxValueBytes int // limit of a value or an error, as JSON text
	// Signer returns the function that signs promise tokens. Its error means that
	// signing is unavailable at the moment. Nil: a create with tokens fails.
	Signer func(context.Context) (SignToken, error)

	// Authenticate looks up a credential: the token of a callback URL, or an
	// Authorization header whose lookup failed in the authorizer.
	Authenticate func(ctx context.Context, source string, inHeader bool) (promise.Principal, error)

	Integrations Integrations // of manage-integrations alone
	Webhooks     Webhooks     // of receive-webhook and manage-integrations alone

	// HTTPAlias is the alias through which API Gateway invokes the function. An event that arrives through any other ARN
	// was written by its caller, and is refused. Empty: every event is accepted.
	HTTPAlias string

	// MaxWaits bounds the calls of one tenant that wait at the same time, over all processes. A tenant's own limit overrides it.
	MaxWaits int

	PublicURL string // the HTTP API's address from outside, without a slash at the end; may be empty

	// Timeout bounds a call's wait for the database; then the call fails with CodeUnavailable. An HTTP call's time starts
	// when API Gateway received it, so it includes the authorizer.
	Timeout time.Duration

	// Stopping is closed when the process is about to end. A waiting call then polls once more and answers. Nil: never.
	Stopping <-chan struct{}

	Log     *slog.Logger
	Metrics Metrics
}

// Metrics counts events by name, such as HoldsExpired.
type Metrics interface {
	Count(name string, n int64)
}

// suspended returns CodeForbidden if a direct invoke found nothing because its
// tenant is suspended: statements find nothing of such a tenant. Other calls carry
// a credential, and a suspended tenant's credential is refused earlier.
func (h *Handler) suspended(ctx context.Context, c *call) error {
	if c.principal.Kind != promise.KindDirect {
		return nil
	}
	ctx, stop := context.WithDeadline(ctx, h.answerBy(time.Time{})) // a wait may have used up the call's own time
	defer stop()
	t, err := h.Store.FindTenant(ctx, c.tenant)
	switch {
	case errors.Is(err, promise.ErrNotFound):
		return nil
	case err != nil:
		return err
	case t.SuspendedAt != nil:
		return promise.Fail(promise.CodeForbidden, "The tenant is suspended. Resume it with manage-tenants before you repeat the call.")
	}
	return nil
}

// baseURL returns the HTTP API's address, or an empty text if it is not known.
func (h *Handler) baseURL(c *call) string {
	if h.PublicURL == "" && c.domain != "" {
		return "https://" + c.domain
	}
	return h.PublicURL
}

// answerBy returns when a call received at that time must be answered; the zero
// time means now. The operation gets at least a quarter of Timeout, even if the
// authorizer used more than the rest. answerBy ignores a time in the future or
// more than gatewayTimeout ago: the event was replayed, or a clock is wrong.
func (h *Handler) answerBy(received time.Time) time.Time {
	now := time.Now()
	spent := now.Sub(received)
	if spent < 0 || spent > gatewayTimeout {
		spent = 0
	}
	return now.Add(max(h.Timeout-spent, h.Timeout/4))
}

// gatewayTimeout is API Gateway's limit for a function's answer.
const gatewayTimeout = 30 * time.Second

func (h *Handler) workflowExecutionID(ctx context.Context, tenant string, w promise.Workflow) (uuid.UUID, error) {
	if w.ExternalID == "" {
		return w.ID, nil
	}
	return h.Store.WorkflowExecutionID(ctx, tenant, w.ExternalID)
}

// logExpiredEarly logs and counts an early settlement that expired before a promise
// used it.
func (h *Handler) logExpiredEarly(ctx context.Context, tenant, idempotencyKey string) {
	h.Log.LogAttrs(ctx, slog.LevelWarn, "held settlement expired unused", slog.String("tenant", tenant), slog.String("key", idempotencyKey))
	h.Metrics.Count("HoldsExpired", 1)
}
