package gateway_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-lambda-go/lambda/messages"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/dbtest"
	"github.com/flovyn/promises/shared/delivery"
	"github.com/flovyn/promises/shared/gateway"
	"github.com/flovyn/promises/shared/openapi/openapitest"
	"github.com/flovyn/promises/shared/promise"
	"github.com/flovyn/promises/shared/repository"
	"github.com/flovyn/promises/shared/routes"
	"github.com/flovyn/promises/shared/seal"
)

// The names in the sample events.
const (
	tenant         = "demo"
	workflowID     = "0b5c1f4e-6a0e-4f0a-9c58-2d1a3c7e9b10"
	promiseID      = "7d9f1f3a-3c1e-4e5b-8a57-0c2f6f1f4a11"
	idempotencyKey = "stripe:ch_abc123"
	apiKeyID       = "c1a5f0de-4b1d-4d3b-9a53-5b7d0a6e2f90"
	deliveryID     = "2e6b4a90-7c1f-4d58-b3a2-9f0e5d7c8b61"
	receiptID      = "5b1d7c2e-8f3a-4d69-a0b4-6e9c2f1d7a35"
)

var operations = map[string]gateway.Operation{
	"create-promise": gateway.CreatePromise,
	"get-promise":    gateway.GetPromise,
	"wait-promise":   gateway.WaitPromise,
	"wait-events":    gateway.WaitEvents,
	"resolve":        gateway.Resolve,
	"resolve-by-id":  gateway.ResolveByID,
	"resolve-by-key": gateway.ResolveByKey,
	"reject":         gateway.Reject,
	"cancel-promise": gateway.CancelPromise,
	"extend-promise": gateway.ExtendPromise,
	"list-promises":  gateway.ListPromises,
	"list-events":    gateway.ListEvents,
	"batch-resolve":  gateway.BatchResolve,
	"revoke-tokens":  gateway.RevokeTokens,
	"delete-promise": gateway.DeletePromise,

	"list-deliveries":  gateway.ListDeliveries,
	"retry-deliveries": gateway.RetryDeliveries,

	"settle-callback": gateway.SettleCallback,
	"receive-webhook": gateway.ReceiveWebhook,

	"list-receipts":       gateway.ListReceipts,
	"manage-integrations": gateway.ManageIntegrations,
}

type service struct {
	db     *dbtest.DB
	store  gateway.Store
	log    *bytes.Buffer
	counts counts
}

func newService(t testing.TB) *service {
	t.Helper()
	db := dbtest.New(t)
	db.Tenant(t, tenant)
	return &service{db: db, store: repository.New(db.Pool), log: new(bytes.Buffer), counts: counts{}}
}

// withoutDatabase returns a service for calls that must not reach the store. A call that does panics, and is answered with 500.
func withoutDatabase() *service {
	return &service{log: new(bytes.Buffer), counts: counts{}}
}

func (s *service) handler(t testing.TB, function string) *gateway.Handler {
	t.Helper()
	op, ok := operations[function]
	require.True(t, ok, function)
	return &gateway.Handler{
		Operation: op, Store: s.store, MaxValueBytes: 1 << 20, Timeout: 10 * time.Second, MaxWaits: 20,
		Log: slog.New(slog.NewTextHandler(s.log, nil)), Metrics: s.counts, PublicURL: "https://api.example.com", Authenticate: authenticate,
		Integrations: integrations, Webhooks: s.webhooks(t),
		Signer: func(context.Context) (gateway.SignToken, error) {
			return func(r gateway.TokenRequest) (string, error) {
				return fmt.Sprint("token.", r.Tenant, ".", r.PromiseID, ".", r.Verbs, ".", r.TTL), nil
			}, nil
		},
	}
}

// sealing is the ring that seals the secrets of destinations in tests.
var sealing = seal.Generate()

// integrations checks URLs and seals secrets as the service does. A test message is not sent.
var integrations = gateway.Integrations{
	CheckURL: func(url string) error { return delivery.CheckURL(url, false) },
	NewSecret: func(_ context.Context, id uuid.UUID, version int) (string, []byte, error) {
		secret := delivery.NewSecret()
		sealed, err := sealing.Seal("destination_secret.sealed", id.String(), version, []byte(secret))
		return secret, sealed, err
	},
	Test: func(context.Context, string, promise.Destination, []promise.DestinationSecret) (gateway.TestResult, error) {
		return gateway.TestResult{Outcome: "failed", Status: 500, Error: "the receiver answered 500"}, nil
	},
}

// destination creates the destination that the sample events name.
func (s *service) destination(t testing.TB) {
	t.Helper()
	_, err := s.direct(t, "manage-integrations", `{"tenant":"demo","action":"put-destination","name":"orders","kind":"https","url":"https://example.com/hooks"}`)
	require.NoError(t, err)
}

// promise creates the pending promise that the sample events name.
func (s *service) promise(t testing.TB) {
	t.Helper()
	k := idempotencyKey
	made, err := s.store.Create(t.Context(), tenant, promise.Draft{
		WorkflowExecutionID: uuid.MustParse(workflowID), Name: "payment", IdempotencyKey: &k, IdempotencyKeyTTL: time.Hour,
	})
	require.NoError(t, err)
	require.True(t, made.New)
	tx, err := s.db.Pool.Begin(t.Context())
	require.NoError(t, err)
	for _, sql := range []string{
		dbtest.Unbound, // allows a change of the id
		"ALTER TABLE idempotency_key DROP CONSTRAINT idempotency_key_promise_id_fkey",
		"UPDATE promise SET id = '" + promiseID + "'",
		"UPDATE idempotency_key SET promise_id = '" + promiseID + "'",
		"UPDATE workflow_event_row SET promise_id = '" + promiseID + "'",
		"ALTER TABLE idempotency_key ADD CONSTRAINT idempotency_key_promise_id_fkey FOREIGN KEY (promise_id) REFERENCES promise (id)",
	} {
		_, err := tx.Exec(t.Context(), sql)
		require.NoError(t, err)
	}
	require.NoError(t, tx.Commit(t.Context()))
}

// delivery adds a delivery of the sample promise to the destination orders, which it
// makes an https one if the tenant has none.
func (s *service) delivery(t testing.TB, id string, state promise.DeliveryState) {
	t.Helper()
	s.db.Exec(t, `INSERT INTO destination (tenant_id, name, kind, address) SELECT id, 'orders', 'https', 'https://example.com/' FROM tenant
		WHERE slug = $1 ON CONFLICT DO NOTHING`, tenant)
	s.db.Exec(t, `INSERT INTO delivery (id, tenant_id, promise_id, target, destination_id, token, state, due_at, attempts, created_at,
			last_attempt_at, last_status, last_error, ended_at, end_reason)
		SELECT $1, p.tenant_id, p.id, 1 + (SELECT COUNT(*) FROM delivery v WHERE v.promise_id = p.id), d.id, 'SECRET-token', $2::VARCHAR, CASE WHEN $2::VARCHAR = 'due' THEN NOW() END, 11, p.created_at,
			NOW(), 503, 'CONTENTS of the answer', CASE WHEN $2::VARCHAR IN ('delivered', 'gone', 'dead') THEN NOW() END, NULL
		FROM promise p JOIN destination d ON d.tenant_id = p.tenant_id AND d.name = 'orders' WHERE p.id = $3`, id, string(state), promiseID)
	s.db.Rewrite(t, "UPDATE promise SET notifies = TRUE WHERE id = $1", promiseID)
}

// snapshot returns every row of the database.
func (s *service) snapshot(t testing.TB) string {
	t.Helper()
	var all []string
	for i, table := range []string{"tenant", "workflow_execution", "promise", "idempotency_key", "workflow_event", "api_key", "destination", "destination_secret", "delivery", "source", "source_secret", "receipt", "receipt_body"} {
		columns := "x::TEXT"
		if table == "source" { // its times of the last requests are written beside a call, and by refused ones
			columns = "(to_jsonb(x) - ARRAY['last_received_at', 'last_verified_at', 'last_refused_at', 'refused_since', 'last_refusal'])::TEXT"
		}
		rows, err := s.db.Pool.Query(t.Context(), "SELECT "+columns+" FROM "+table+" x ORDER BY 1")
		require.NoError(t, err)
		lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
		require.NoError(t, err)
		all = append(append(all, fmt.Sprint("table ", i)), lines...)
	}
	return strings.Join(all, "\n")
}

func (s *service) post(t testing.TB, function, identifier, query, body string) response {
	t.Helper()
	return respond(t, s.handler(t, function), httpEvent(t, "POST", tenant, identifier, query, body))
}

func (s *service) direct(t testing.TB, function, payload string) (string, error) {
	t.Helper()
	got, err := s.handler(t, function).Invoke(t.Context(), []byte(payload))
	return string(got), err
}

// answer invokes a function directly and decodes its answer.
func (s *service) answer(t testing.TB, function, payload string) map[string]any {
	t.Helper()
	got, err := s.direct(t, function, payload)
	require.NoError(t, err, payload)
	var fields map[string]any
	require.NoError(t, json.Unmarshal([]byte(got), &fields), got)
	return fields
}

// payloadByID begins a direct payload about the promise of the sample events.
const payloadByID = `{"tenant":"demo","promiseId":"` + promiseID + `"`

type counts map[string]int64

func (c counts) Count(name string, n int64) { c[name] += n }

// caseName returns the name of a subtest: its input, each part shortened.
func caseName(parts ...string) string {
	names := make([]string, len(parts))
	for i, part := range parts {
		switch r := []rune(part); {
		case part == "":
			names[i] = "(empty)"
		case len(r) > 100:
			names[i] = string(r[:100]) + "..."
		default:
			names[i] = part
		}
	}
	return strings.Join(names, ": ")
}

// reference is the file that documents the codes. checkProblem compares the path of each problem's type with it.
const reference = "functions/README.md"

type response struct {
	StatusCode int
	Headers    map[string]string
	Body       string
}

func decodeResponse(t testing.TB, text []byte) response {
	t.Helper()
	var r response
	require.NoError(t, json.Unmarshal(text, &r), "%s", text)
	require.Equal(t, "no-store", r.Headers["cache-control"])
	require.Equal(t, "nosniff", r.Headers["x-content-type-options"])
	require.Equal(t, gateway.Version, r.Headers["promises-version"])
	return r
}

// respond invokes a handler with an event and decodes its response.
func respond(t testing.TB, h *gateway.Handler, event []byte) response {
	t.Helper()
	got, err := h.Invoke(t.Context(), event)
	require.NoError(t, err)
	r := decodeResponse(t, got)
	var route struct{ RouteKey string }
	require.NoError(t, json.Unmarshal(event, &route))
	requireDescribed(t, h.Operation.Name(), route.RouteKey, r)
	return r
}

var description = sync.OnceValues(openapitest.Load)

// requireDescribed requires that the route has the response in the description of the API, or any route of the function if an event names none.
func requireDescribed(t testing.TB, function, route string, r response) {
	t.Helper()
	d, err := description()
	require.NoError(t, err)
	var operations []openapitest.Operation
	for _, o := range d.Operations() {
		serves := func(r routes.Route) bool { return r.Function == function && r.Method == o.Method && r.Path == o.Path }
		if (route == "" || route == o.Method+" "+o.Path) && slices.ContainsFunc(routes.HTTP, serves) {
			operations = append(operations, o)
		}
	}
	require.NoError(t, d.CheckAnswer(operations, r.StatusCode, r.Headers["content-type"], []byte(r.Body)))
}

func requireProblem(t testing.TB, status int, code string, r response) map[string]any {
	t.Helper()
	require.Equal(t, status, r.StatusCode, r.Body)
	require.Equal(t, "application/problem+json", r.Headers["content-type"])
	return checkProblem(t, status, code, r.Body)
}

func requireFunctionError(t testing.TB, code string, err error) map[string]any {
	t.Helper()
	var e messages.InvokeResponse_Error
	require.True(t, errors.As(err, &e), "%v", err)
	require.Equal(t, code, e.Type)
	require.Empty(t, e.StackTrace)
	return checkProblem(t, 0, code, e.Message)
}

func checkProblem(t testing.TB, status int, code, text string) map[string]any {
	t.Helper()
	var p map[string]any
	require.NoError(t, json.Unmarshal([]byte(text), &p), text)
	require.Equal(t, code, p["code"], text)
	require.Equal(t, "https://github.com/flovyn/promises/blob/main/"+reference+"#"+code, p["type"])
	require.NotEmpty(t, p["title"])
	require.NotEmpty(t, p["detail"])
	require.NotContains(t, text, "SQLSTATE")
	if status != 0 {
		require.EqualValues(t, status, p["status"])
	}
	return p
}

// httpEvent returns the event (payload format 2.0) that API Gateway sends for this call.
func httpEvent(t testing.TB, method, slug, identifier, query, body string) []byte {
	t.Helper()
	e := map[string]any{
		"version": "2.0", "rawQueryString": query, "body": body, "isBase64Encoded": false,
		"headers":        map[string]string{"content-type": "application/json"},
		"pathParameters": map[string]string{"slug": slug, "identifier": identifier, "workflowExecutionId": identifier},
		"requestContext": map[string]any{
			"http":       map[string]string{"method": method},
			"authorizer": map[string]any{"lambda": keyHolder(slug, promise.Scopes...).Texts()},
		},
	}
	if identifier != "" {
		e["pathParameters"].(map[string]string)["deliveryId"] = identifier
	}
	if query != "" {
		values, err := url.ParseQuery(query)
		require.NoError(t, err)
		q := map[string]string{}
		for name, v := range values {
			q[name] = strings.Join(v, ",")
		}
		e["queryStringParameters"] = q
	}
	text, err := json.Marshal(e)
	require.NoError(t, err)
	return text
}

// keyHolder returns the principal of an API key of a tenant.
func keyHolder(slug string, scopes ...promise.Scope) promise.Principal {
	return promise.Principal{By: promise.By{Kind: promise.KindAPIKey, ID: apiKeyID}, Tenant: slug, Scopes: scopes}
}

// withAuthorizer replaces the answer of the authorizer in an event. With nil texts the event has no credential.
func withAuthorizer(t testing.TB, event []byte, texts map[string]string) []byte {
	t.Helper()
	var e map[string]any
	require.NoError(t, json.Unmarshal(event, &e))
	e["requestContext"].(map[string]any)["authorizer"] = map[string]any{"lambda": texts}
	text, err := json.Marshal(e)
	require.NoError(t, err)
	return text
}

func gzipped(t testing.TB, text string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, err := w.Write([]byte(text))
	require.NoError(t, err)
	require.NoError(t, w.Close())
	return b.Bytes()
}

// sampleToken stands for a token in the sample events. With "raw" behind it, it stands for a token that takes the whole body.
const sampleToken = "eyJ…"

// authenticate stands for the lookup of a credential in the operation.
func authenticate(_ context.Context, source string, inHeader bool) (promise.Principal, error) {
	switch {
	case inHeader && source == "Bearer prk_…":
		return keyHolder(tenant, promise.Scopes...), nil
	case !inHeader && (source == sampleToken || source == sampleToken+"raw"):
		return promise.Principal{
			By: promise.By{Kind: promise.KindToken, ID: apiKeyID}, Tenant: tenant, PromiseID: uuid.MustParse(promiseID),
			Verbs: []promise.Verb{promise.VerbResolve, promise.VerbReject}, RawBody: source != sampleToken,
		}, nil
	}
	return promise.Principal{By: promise.By{Kind: promise.KindAnonymous}}, nil
}

const form = "application/x-www-form-urlencoded"

// A callback is a call of a callback URL.
type callback struct {
	verb        string
	query, path string // path: a token behind the verb
	contentType string
	body        []byte
	identifier  string // default: the sample promise's
	slug        string // default: the sample tenant's
}

func (c callback) event(t testing.TB) []byte {
	t.Helper()
	if c.identifier == "" {
		c.identifier = "id:" + promiseID
	}
	if c.slug == "" {
		c.slug = tenant
	}
	headers, variables := map[string]string{}, map[string]string{"slug": c.slug, "identifier": c.identifier}
	route := "POST /api/tenants/{slug}/callbacks/{identifier}/" + c.verb
	if c.path != "" {
		route, variables["token"] = route+"/{token}", c.path
	}
	if c.contentType != "" {
		headers["content-type"] = c.contentType
	}
	payload, err := json.Marshal(map[string]any{
		"version": "2.0", "routeKey": route, "rawQueryString": c.query, "headers": headers, "pathParameters": variables,
		"body": base64.StdEncoding.EncodeToString(c.body), "isBase64Encoded": true,
		"requestContext": map[string]any{ // the token alone counts
			"authorizer": map[string]any{"lambda": keyHolder(tenant, promise.Scopes...).Texts()},
		},
	})
	require.NoError(t, err)
	return payload
}

// failing is a store whose reads fail with a code.
type failing struct {
	gateway.Store
	code promise.Code
}

func (f failing) Get(context.Context, string, promise.Identifier) (promise.Promise, error) {
	return promise.Promise{}, promise.Fail(f.code, "as the test wants it")
}

// settling is a store without a database. Every settlement succeeds.
type settling struct{ gateway.Store }

func (settling) Settle(context.Context, string, promise.Identifier, promise.SettleRequest) (promise.SettleResult, error) {
	return promise.SettleResult{PromiseID: uuid.UUID{1}, State: promise.Resolved, Outcome: promise.OutcomeSettled}, nil
}

// A storeCall is a call that reached the store.
type storeCall struct {
	method, tenant, target string // target: "id:..." or "key:..."
	by                     promise.By
	args                   []any
}

// A recorder is a store that records its calls and answers at once. A database would
// make a fuzz target slow.
type recorder struct {
	gateway.DestinationStore // not called
	gateway.SourceStore      // ListReceipts alone is called

	calls   []storeCall
	pending bool // whether Get returns a pending promise
}

func (r *recorder) note(method, tenant string, i *promise.Identifier, by promise.By, args ...any) {
	c := storeCall{method: method, tenant: tenant, by: by, args: args}
	if i != nil {
		if key, ok := i.IdempotencyKey(); ok {
			c.target = "key:" + key
		} else {
			c.target = i.String()
		}
	}
	r.calls = append(r.calls, c)
}

var settledPromise = promise.Promise{ID: uuid.UUID{1}, State: promise.Resolved, Value: []byte(`1`)}

func (r *recorder) Create(_ context.Context, tenant string, d promise.Draft) (promise.CreateResult, error) {
	r.note("Create", tenant, nil, promise.By{}, d)
	return promise.CreateResult{Promise: settledPromise, New: true}, nil
}

// WorkflowExecutionID derives another id for each tenant and text.
func (r *recorder) WorkflowExecutionID(_ context.Context, tenant, externalID string) (uuid.UUID, error) {
	return derived(tenant, externalID), nil
}

func derived(tenant, externalID string) uuid.UUID {
	return uuid.NewSHA1(uuid.NewSHA1(uuid.Nil, []byte(tenant)), []byte(externalID))
}

func (r *recorder) Get(_ context.Context, tenant string, i promise.Identifier) (promise.Promise, error) {
	r.note("Get", tenant, &i, promise.By{})
	if r.pending {
		return promise.Promise{ID: settledPromise.ID, State: promise.Pending}, nil
	}
	return settledPromise, nil
}

func (r *recorder) Settle(_ context.Context, tenant string, i promise.Identifier, s promise.SettleRequest) (promise.SettleResult, error) {
	by := s.By
	s.By = promise.By{}
	r.note("Settle", tenant, &i, by, s)
	return promise.SettleResult{PromiseID: settledPromise.ID, State: s.State, Outcome: promise.OutcomeSettled}, nil
}

func (r *recorder) SettleEarly(
	_ context.Context, tenant, key string, s promise.SettleRequest, ttl time.Duration,
) (promise.SettleResult, error) {
	by, until := s.By, time.Now()
	s.By = promise.By{}
	i, err := promise.ByIdempotencyKey(key)
	r.note("SettleEarly", tenant, &i, by, s, ttl)
	return promise.SettleResult{Outcome: promise.OutcomeHeld, EarlyExpiresAt: &until}, err
}

func (r *recorder) SettleBatch(_ context.Context, tenant string, by promise.By, items []promise.Item) ([]promise.ItemResult, error) {
	r.note("SettleBatch", tenant, nil, by, items)
	return make([]promise.ItemResult, len(items)), nil
}

func (r *recorder) Extend(_ context.Context, tenant string, i promise.Identifier, d promise.Deadline) (promise.Promise, error) {
	r.note("Extend", tenant, &i, promise.By{}, d)
	return settledPromise, nil
}

func (r *recorder) RevokeTokens(_ context.Context, tenant string, i promise.Identifier) (promise.TokensRevoked, error) {
	r.note("RevokeTokens", tenant, &i, promise.By{})
	return promise.TokensRevoked{PromiseID: settledPromise.ID}, nil
}

// FindTenant is called only after a not_found, which a recorder never returns.
func (r *recorder) FindTenant(_ context.Context, slug string) (promise.Tenant, error) {
	r.note("FindTenant", slug, nil, promise.By{})
	return promise.Tenant{Slug: slug}, nil
}

func (r *recorder) Erase(_ context.Context, tenant string, i promise.Identifier) (promise.Promise, error) {
	r.note("Erase", tenant, &i, promise.By{})
	return promise.Promise{ID: settledPromise.ID, State: promise.Resolved, ErasedAt: &time.Time{}}, nil
}

func (r *recorder) ListPromises(_ context.Context, tenant string, f promise.Filter, limit int) ([]promise.Promise, bool, error) {
	r.note("ListPromises", tenant, nil, promise.By{}, f, int64(limit))
	return []promise.Promise{settledPromise}, true, nil
}

func (r *recorder) ListEvents(_ context.Context, tenant string, id uuid.UUID, after int32, limit int) ([]promise.Event, error) {
	r.note("ListEvents", tenant, nil, promise.By{}, id, int64(after), int64(limit))
	return []promise.Event{{SequenceNumber: after, PromiseID: settledPromise.ID}}, nil
}

func (r *recorder) ListDeliveries(_ context.Context, tenant string, f promise.DeliveryFilter, limit int) ([]promise.Delivery, bool, error) {
	r.note("ListDeliveries", tenant, nil, promise.By{}, f, int64(limit))
	return []promise.Delivery{{ID: uuid.UUID{2}, PromiseID: settledPromise.ID, State: promise.DeliveryDead}}, true, nil
}

func (r *recorder) ListReceipts(_ context.Context, tenant string, f promise.ReceiptFilter, limit int) ([]promise.Receipt, bool, error) {
	r.note("ListReceipts", tenant, nil, promise.By{}, f, int64(limit))
	return []promise.Receipt{{ID: uuid.UUID{3}, Outcome: promise.ReceiptSettled}}, true, nil
}

func (r *recorder) RetryDelivery(_ context.Context, tenant string, id uuid.UUID) (promise.Delivery, error) {
	r.note("RetryDelivery", tenant, nil, promise.By{}, id)
	return promise.Delivery{ID: id, PromiseID: settledPromise.ID, State: promise.DeliveryDue}, nil
}

func (r *recorder) RetryDeadDeliveries(_ context.Context, tenant, destination string, limit int) (int, bool, error) {
	r.note("RetryDeadDeliveries", tenant, nil, promise.By{}, destination, int64(limit))
	return limit, true, nil
}

func (r *recorder) KeepWait(_ context.Context, tenant string, _ uuid.UUID, _ int) (bool, error) {
	r.note("KeepWait", tenant, nil, promise.By{})
	return true, nil
}

func (r *recorder) BeginWait(_ context.Context, tenant string, _ uuid.UUID, longest time.Duration, _ int) (bool, error) {
	r.note("BeginWait", tenant, nil, promise.By{}, longest)
	return false, nil
}

func (r *recorder) EndWait(_ context.Context, tenant string, _ uuid.UUID) error {
	r.note("EndWait", tenant, nil, promise.By{})
	return nil
}

// A timedStore is a store for tests on synctest's clock. It has one promise, which is settled at a set time.
type timedStore struct {
	gateway.Store
	settledAt time.Time // zero: never
	answered  int       // how many polls are answered; a later poll waits until its context ends
	polls     int

	beyondBound, unavailable bool // BeginWait counts no call, or fails
	endsEarly                bool // KeepWait ends each call
	counted, ended           int
	longest                  time.Duration // BeginWait's last argument of that name
}

const always = 1 << 30

func (c *timedStore) poll(ctx context.Context) (settled bool, err error) {
	if c.polls++; c.polls > c.answered {
		<-ctx.Done()
		return false, &promise.Error{Code: promise.CodeUnavailable, Detail: "away", Cause: ctx.Err()}
	}
	return !c.settledAt.IsZero() && !time.Now().Before(c.settledAt), nil
}

func (c *timedStore) BeginWait(_ context.Context, _ string, _ uuid.UUID, longest time.Duration, _ int) (bool, error) {
	if c.unavailable {
		return false, &promise.Error{Code: promise.CodeUnavailable, Detail: "read-only"}
	}
	if !c.beyondBound {
		c.counted++
	}
	c.longest = longest
	return !c.beyondBound, nil
}

func (c *timedStore) KeepWait(context.Context, string, uuid.UUID, int) (bool, error) {
	return !c.endsEarly, nil
}

func (c *timedStore) EndWait(ctx context.Context, _ string, _ uuid.UUID) error {
	c.ended++
	return ctx.Err()
}

func (c *timedStore) Get(ctx context.Context, _ string, _ promise.Identifier) (promise.Promise, error) {
	settled, err := c.poll(ctx)
	p := promise.Promise{ID: uuid.MustParse(promiseID), Name: "payment", State: promise.Pending}
	if settled {
		p.State, p.Value = promise.Resolved, []byte("1")
	}
	return p, err
}

func (c *timedStore) Settle(ctx context.Context, _ string, _ promise.Identifier, _ promise.SettleRequest) (promise.SettleResult, error) {
	_, err := c.poll(ctx)
	return promise.SettleResult{PromiseID: uuid.MustParse(promiseID), State: promise.Resolved, Outcome: promise.OutcomeSettled}, err
}

func (c *timedStore) ListEvents(ctx context.Context, _ string, _ uuid.UUID, after int32, _ int) ([]promise.Event, error) {
	settled, err := c.poll(ctx)
	if !settled || after > 1 {
		return nil, err
	}
	by := promise.SettleRequest{Result: promise.Result{State: promise.Resolved, Value: []byte("1")}, By: promise.By{Kind: promise.KindDirect}}
	return []promise.Event{{SequenceNumber: 2, Type: promise.EventResolved, PromiseID: uuid.MustParse(promiseID), Settlement: &by}}, err
}

func (c *timedStore) handler(function string) *gateway.Handler {
	return &gateway.Handler{
		Operation: operations[function], Store: c, MaxValueBytes: 1 << 20, Timeout: 2 * time.Second,
		Log: slog.New(slog.NewTextHandler(io.Discard, nil)), Metrics: counts{},
	}
}
