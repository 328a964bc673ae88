package gateway_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-lambda-go/lambda/messages"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/dbtest"
	"github.com/flovyn/promises/shared/gateway"
	"github.com/flovyn/promises/shared/promise"
	"github.com/flovyn/promises/shared/repository"
)

// What the sample events speak of.
const (
	tenant     = "demo"
	workflowID = "0b5c1f4e-6a0e-4f0a-9c58-2d1a3c7e9b10"
	promiseID  = "7d9f1f3a-3c1e-4e5b-8a57-0c2f6f1f4a11"
	key        = "stripe:ch_abc123"
	keyID      = "c1a5f0de-4b1d-4d3b-9a53-5b7d0a6e2f90"
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

	"settle-callback": gateway.SettleCallback,
}

type service struct {
	db     *dbtest.DB
	store  gateway.Store
	log    *bytes.Buffer
	counts counts
}

type counts map[string]int64

func (c counts) Count(name string, n int64) { c[name] += n }

func newService(t testing.TB) *service {
	t.Helper()
	db := dbtest.New(t)
	db.Tenant(t, tenant)
	return &service{db: db, store: repository.New(db.Pool), log: new(bytes.Buffer), counts: counts{}}
}

func (s *service) handler(t testing.TB, function string) *gateway.Handler {
	t.Helper()
	op, ok := operations[function]
	require.True(t, ok, function)
	return &gateway.Handler{
		Operation: op, Store: s.store, MaxValueBytes: 1 << 20, Timeout: 10 * time.Second, MaxWaits: 20,
		Log: slog.New(slog.NewTextHandler(s.log, nil)), Metrics: s.counts, PublicURL: "https://api.example.com", Authenticate: authenticate,
		Signer: func(context.Context) (gateway.SignToken, error) {
			return func(r gateway.TokenRequest) (string, error) {
				return fmt.Sprint("token.", r.Tenant, ".", r.PromiseID, ".", r.Verbs, ".", r.TTL), nil
			}, nil
		},
	}
}

// promise makes the pending promise that the sample events speak of.
func (s *service) promise(t testing.TB) {
	t.Helper()
	k := key
	made, err := s.store.Create(t.Context(), tenant, promise.Draft{
		WorkflowExecutionID: uuid.MustParse(workflowID), Name: "payment", IdempotencyKey: &k, IdempotencyKeyTTL: time.Hour,
	})
	require.NoError(t, err)
	require.True(t, made.New)
	tx, err := s.db.Pool.Begin(t.Context())
	require.NoError(t, err)
	for _, sql := range []string{
		dbtest.Unbound, // a promise keeps its id
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

// snapshot is everything that the database holds.
func (s *service) snapshot(t testing.TB) string {
	t.Helper()
	var all []string
	for _, table := range []string{"tenant", "workflow_execution", "promise", "idempotency_key", "workflow_event", "api_key"} {
		rows, err := s.db.Pool.Query(t.Context(), "SELECT x::TEXT FROM "+table+" x ORDER BY 1")
		require.NoError(t, err)
		lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
		require.NoError(t, err)
		all = append(append(all, table), lines...)
	}
	return strings.Join(all, "\n")
}

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

// httpEvent makes a payload 2.0 event as API Gateway does for this call.
func httpEvent(t testing.TB, method, slug, identifier, query, body string) []byte {
	t.Helper()
	e := map[string]any{
		"version": "2.0", "rawQueryString": query, "body": body, "isBase64Encoded": false,
		"headers":        map[string]string{"content-type": "application/json"},
		"pathParameters": map[string]string{"slug": slug, "identifier": identifier, "workflowExecutionId": identifier},
		"requestContext": map[string]any{
			"http":       map[string]string{"method": method},
			"authorizer": map[string]any{"lambda": holder(slug, promise.Scopes...).Texts()},
		},
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

// holder is who holds a key of a tenant.
func holder(slug string, scopes ...promise.Scope) promise.Principal {
	return promise.Principal{By: promise.By{Kind: promise.KindAPIKey, ID: keyID}, Tenant: slug, Scopes: scopes}
}

func (s *service) post(t testing.TB, function, identifier, query, body string) response {
	t.Helper()
	got, err := s.handler(t, function).Invoke(t.Context(), httpEvent(t, "POST", tenant, identifier, query, body))
	require.NoError(t, err)
	return decodeResponse(t, got)
}

func (s *service) direct(t testing.TB, function, payload string) (string, error) {
	t.Helper()
	got, err := s.handler(t, function).Invoke(t.Context(), []byte(payload))
	return string(got), err
}

func TestBothFormsAnswerTheSame(t *testing.T) {
	t.Parallel()
	s := newService(t)
	create := `"workflowExecutionId":"` + workflowID + `","name":"payment","idempotencyKey":"k:1/2 ä%","metadata":{"a":"<b>"}`
	a := s.post(t, "create-promise", "", "", "{"+create+"}")
	require.Equal(t, 201, a.StatusCode)
	require.Equal(t, "application/json", a.Headers["content-type"])
	var made struct {
		Created   bool
		PromiseID string
		State     string
	}
	require.NoError(t, json.Unmarshal([]byte(a.Body), &made))
	require.True(t, made.Created)
	require.Equal(t, "pending", made.State)

	again, err := s.direct(t, "create-promise", `{"tenant":"demo",`+create+`}`)
	require.NoError(t, err)
	require.Equal(t, strings.Replace(a.Body, `"created":true`, `"created":false`, 1), again)

	value := `{"b" :  1.0, "a":"<\u00e4>","a":  null}`
	a = s.post(t, "resolve", "key:k:1/2 ä%", "", `{"value": `+value+"\n}")
	require.Equal(t, 200, a.StatusCode)
	require.Equal(t,
		`{"outcome":"settled","state":"resolved","promiseId":"`+made.PromiseID+`","resolved":true,"alreadyResolved":false}`, a.Body)
	twice, err := s.direct(t, "resolve-by-id", `{"tenant":"demo","promiseId":"`+made.PromiseID+`","value":`+value+`}`)
	require.NoError(t, err)
	require.Equal(t,
		`{"outcome":"duplicate","state":"resolved","promiseId":"`+made.PromiseID+`","resolved":false,"alreadyResolved":true}`, twice)

	got, err := s.handler(t, "get-promise").Invoke(t.Context(), httpEvent(t, "GET", tenant, "id:"+made.PromiseID, "", ""))
	require.NoError(t, err)
	body := decodeResponse(t, got).Body
	require.Contains(t, body, `,"value":`+value+`}`, "byte for byte")
	sameBody, err := s.direct(t, "get-promise", `{"tenant":"demo","key":"k:1/2 ä%"}`)
	require.NoError(t, err)
	require.Equal(t, body, sameBody)
	require.True(t, json.Valid([]byte(body)))
}

func TestAValueThatIsNoJSON(t *testing.T) {
	t.Parallel()
	s := newService(t)
	s.promise(t)
	s.db.Exec(t, `UPDATE promise SET resolved = TRUE, outcome = 'resolved', value = '\x00ff22'`)
	got, err := s.direct(t, "get-promise", `{"tenant":"demo","key":"`+key+`"}`)
	require.NoError(t, err)
	require.True(t, json.Valid([]byte(got)), got)
	require.Contains(t, got, `"valueBase64":"AP8i"`)
}

func TestStrict(t *testing.T) {
	t.Parallel()
	s := newService(t)
	s.promise(t)
	require.Equal(t, 200, s.post(t, "resolve", "id:"+promiseID, "strict=true", `{"value":1}`).StatusCode)
	require.Equal(t, 200, s.post(t, "resolve", "id:"+promiseID, "strict=true", `{"value":1}`).StatusCode, "a duplicate")
	require.Equal(t, 200, s.post(t, "reject", "id:"+promiseID, "strict=false", `{"error":"x"}`).StatusCode)
	p := requireProblem(t, 409, "conflict", s.post(t, "reject", "id:"+promiseID, "strict=true", `{"error":"x"}`))
	for name, want := range map[string]any{
		"promiseId": promiseID, "resolved": false, "alreadyResolved": true, "state": "resolved", "outcome": "conflict",
	} {
		require.Equal(t, want, p[name], name)
	}
	_, err := s.direct(t, "reject", `{"tenant":"demo","promiseId":"`+promiseID+`","error":"x","strict":true}`)
	requireFunctionError(t, "conflict", err)
	lax, err := s.direct(t, "reject", `{"tenant":"demo","promiseId":"`+promiseID+`","error":"x"}`)
	require.NoError(t, err)
	require.Contains(t, lax, `"outcome":"conflict"`)

	for state, code := range map[string]string{"timed_out": "timed_out", "cancelled": "cancelled"} {
		s.db.Rewrite(t, "UPDATE promise SET outcome = $1, value = NULL", state)
		requireProblem(t, 409, code, s.post(t, "resolve", "key:"+key, "strict=true", `{"value":1}`))
		a := s.post(t, "resolve", "key:"+key, "", `{"value":1}`)
		require.Equal(t, 200, a.StatusCode)
		require.Contains(t, a.Body, fmt.Sprintf(`"outcome":%q,"state":%q`, code, state))
	}
}

func TestConflictsTellThePromiseInTheWay(t *testing.T) {
	t.Parallel()
	s := newService(t)
	s.promise(t)
	body := `{"workflowExecutionId":"` + workflowID + `","name":"other","idempotencyKey":"` + key + `"}`
	p := requireProblem(t, 409, "key_conflict", s.post(t, "create-promise", "", "", body))
	require.Equal(t, promiseID, p["existingPromiseId"])
	body = `{"workflowExecutionId":"` + workflowID + `","name":"payment"}`
	p = requireProblem(t, 409, "create_conflict", s.post(t, "create-promise", "", "", body))
	require.Equal(t, promiseID, p["existingPromiseId"])
}

func TestUnknownAndForeignCannotBeToldApart(t *testing.T) {
	t.Parallel()
	s := newService(t)
	s.db.Tenant(t, "other")
	s.promise(t)
	bodies := map[string]string{
		"resolve": `{"value":1}`, "reject": `{"error":"x"}`, "get-promise": "",
		"create-promise": `{"workflowExecutionId":"` + workflowID + `","name":"payment","idempotencyKey":"` + key + `"}`,
	}
	seen := map[string]bool{}
	for function, body := range bodies {
		for slug, identifiers := range map[string][]string{
			"nobody": {"id:" + promiseID, "key:" + key}, "other": {"id:" + promiseID, "key:" + key}, "nul\x00": {"id:" + promiseID},
			tenant: {"id:" + workflowID, "key:nothing"},
		} {
			if function == "create-promise" && slug == tenant {
				continue
			}
			for _, identifier := range identifiers {
				got, err := s.handler(t, function).Invoke(t.Context(), httpEvent(t, "POST", slug, identifier, "", body))
				require.NoError(t, err)
				requireProblem(t, 404, "not_found", decodeResponse(t, got))
				seen[string(got)] = true
			}
		}
	}
	require.Len(t, seen, 1)
}
