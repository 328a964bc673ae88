package httpapi_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-lambda-go/events"
	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/infra/local/httpapi"
	"github.com/flovyn/promises/infra/local/lambda"
	"github.com/flovyn/promises/shared/routes"
)

// table has routes without an authorizer.
var table = []routes.Route{
	{Method: "POST", Path: "/api/tenants/{slug}/promises", Function: "create"},
	{Method: "GET", Path: "/api/tenants/{slug}/promises", Function: "list"},
	{Method: "GET", Path: "/api/tenants/{slug}/promises/{identifier}", Function: "get"},
	{Method: "POST", Path: "/api/tenants/{slug}/promises/{identifier}/resolve", Function: "resolve"},
	{Method: "POST", Path: "/api/tenants/{slug}/promises/{action}", Function: "any-action"},
	{Method: "POST", Path: "/api/tenants/{slug}/promises/batch-resolve", Function: "batch"},
}

// An invoker is a function that implements httpapi.Invoker.
type invoker func(function string, req lambda.Request) (lambda.Result, error)

func (i invoker) Invoke(_ context.Context, function string, req lambda.Request) (lambda.Result, error) {
	return i(function, req)
}

// raw sends the request unchanged, except that lines end with CRLF, and returns the response.
func raw(t *testing.T, s *httptest.Server, request string) *http.Response {
	t.Helper()
	conn, err := net.Dial("tcp", s.Listener.Addr().String())
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	_, err = io.WriteString(conn, strings.ReplaceAll(request, "\n", "\r\n"))
	require.NoError(t, err)
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	require.NoError(t, err)
	return resp
}

func body(t *testing.T, resp *http.Response) string {
	t.Helper()
	b, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return string(b)
}

// A waiting Invoker returns only when its context ends.
type waiting struct{}

func (waiting) Invoke(ctx context.Context, _ string, _ lambda.Request) (lambda.Result, error) {
	<-ctx.Done()
	return lambda.Result{}, ctx.Err()
}

// guarded has routes with the authorizers of guards.
var guarded = []routes.Route{
	{Method: "POST", Path: "/promises/{identifier}/resolve", Function: "resolve", Authorizer: "credential"},
	{Method: "GET", Path: "/promises/{identifier}", Function: "get", Authorizer: "credential"},
	{Method: "POST", Path: "/callbacks/{identifier}/resolve", Function: "resolve", Authorizer: "callback"},
	{Method: "GET", Path: "/short", Function: "get", Authorizer: "short"},
	{Method: "GET", Path: "/never", Function: "get", Authorizer: "never"},
	{Method: "GET", Path: "/open", Function: "get"},
}

var guards = []routes.Authorizer{
	{Name: "credential", Function: "authorize", IdentitySource: "$request.header.Authorization", TTL: 30 * time.Second},
	{Name: "callback", Function: "authorize", IdentitySource: "$request.querystring.token", TTL: 30 * time.Second},
	{Name: "short", Function: "authorize", IdentitySource: "$request.header.Authorization", TTL: 10 * time.Second},
	{Name: "never", Function: "authorize", IdentitySource: "$request.header.Authorization"},
}

// A guardedAPI is an HTTP API that records the invocations of each function. Its
// authorizer returns answer(identity), and its other functions return 204.
type guardedAPI struct {
	*httpapi.Handler
	answer func(identity string) (lambda.Result, error)

	mu    sync.Mutex
	now   time.Time
	calls map[string][]lambda.Request
}

func newGuardedAPI(answer func(identity string) (lambda.Result, error)) *guardedAPI {
	api := &guardedAPI{answer: answer, now: time.Now(), calls: map[string][]lambda.Request{}}
	api.Handler = httpapi.New(guarded, guards, invoker(api.invoke))
	api.Now = func() time.Time {
		api.mu.Lock()
		defer api.mu.Unlock()
		return api.now
	}
	return api
}

func (api *guardedAPI) invoke(function string, req lambda.Request) (lambda.Result, error) {
	api.mu.Lock()
	api.calls[function] = append(api.calls[function], req)
	api.mu.Unlock()
	if want := map[bool]string{false: "http"}[function == "authorize"]; req.Qualifier != want {
		return lambda.Result{}, fmt.Errorf("%s was invoked through %q", function, req.Qualifier)
	}
	if function != "authorize" {
		return lambda.Result{Payload: []byte(`{"statusCode":204}`)}, nil
	}
	var e events.APIGatewayV2CustomAuthorizerV2Request
	if err := json.Unmarshal(req.Payload, &e); err != nil {
		return lambda.Result{}, err
	}
	return api.answer(e.IdentitySource[0])
}

// advance moves the API's clock.
func (api *guardedAPI) advance(d time.Duration) {
	api.mu.Lock()
	defer api.mu.Unlock()
	api.now = api.now.Add(d)
}

// count returns the number of invocations of the function.
func (api *guardedAPI) count(function string) int {
	api.mu.Lock()
	defer api.mu.Unlock()
	return len(api.calls[function])
}

// last returns the event of the function's last invocation.
func (api *guardedAPI) last(t *testing.T, function string) map[string]any {
	t.Helper()
	api.mu.Lock()
	defer api.mu.Unlock()
	require.NotEmpty(t, api.calls[function])
	var e map[string]any
	require.NoError(t, json.Unmarshal(api.calls[function][len(api.calls[function])-1].Payload, &e))
	return e
}

// do sends a request without a body. If authorization is empty, it sends no such header.
func (api *guardedAPI) do(method, target, authorization string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, target, nil)
	if authorization != "" {
		r.Header.Set("Authorization", authorization)
	}
	w := httptest.NewRecorder()
	api.ServeHTTP(w, r)
	return w
}

// allow allows every request and returns the identity in the context.
func allow(identity string) (lambda.Result, error) {
	return lambda.Result{Payload: fmt.Appendf(nil, `{"isAuthorized":true,"context":{"identity":%q}}`, identity)}, nil
}
