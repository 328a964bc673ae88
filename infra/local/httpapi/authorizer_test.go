package httpapi_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
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

// guardedAPI keeps how each function was called. Its authorizer answers with
// what answer makes of the identity, its other functions with 204.
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

func (api *guardedAPI) pass(d time.Duration) {
	api.mu.Lock()
	defer api.mu.Unlock()
	api.now = api.now.Add(d)
}

// count is how often the function was called.
func (api *guardedAPI) count(function string) int {
	api.mu.Lock()
	defer api.mu.Unlock()
	return len(api.calls[function])
}

// last is the event that the function was called with the last time.
func (api *guardedAPI) last(t *testing.T, function string) map[string]any {
	t.Helper()
	api.mu.Lock()
	defer api.mu.Unlock()
	require.NotEmpty(t, api.calls[function])
	var e map[string]any
	require.NoError(t, json.Unmarshal(api.calls[function][len(api.calls[function])-1].Payload, &e))
	return e
}

// do sends a request without a body; authorization is left out if empty.
func (api *guardedAPI) do(method, target, authorization string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, target, nil)
	if authorization != "" {
		r.Header.Set("Authorization", authorization)
	}
	w := httptest.NewRecorder()
	api.ServeHTTP(w, r)
	return w
}

// about allows everybody and says who they are.
func about(identity string) (lambda.Result, error) {
	return lambda.Result{Payload: fmt.Appendf(nil, `{"isAuthorized":true,"context":{"identity":%q}}`, identity)}, nil
}

func returning(payload string) func(string) (lambda.Result, error) {
	return func(string) (lambda.Result, error) { return lambda.Result{Payload: []byte(payload)}, nil }
}

func TestIdentityMissing(t *testing.T) {
	t.Parallel()
	api := newGuardedAPI(about)
	s := httptest.NewServer(api)
	t.Cleanup(s.Close)
	const get, resolve = "GET /promises/id:1", "POST /callbacks/id:1/resolve"
	for _, c := range []struct {
		line, headers string
		identity      string // empty: 401
	}{
		{get, "", ""},
		{get, "Authorization:\n", ""},
		{get, "Authorization: \t \n", ""},
		{get, "X-Authorization: Bearer a\n", ""},
		{get, "Cookie: Authorization=a\n", ""},
		{get + "?Authorization=a&token=b", "", ""},
		{get, "authorization: Bearer a\n", "Bearer a"},
		{get, "AUTHORIZATION:  Bearer a \n", "Bearer a"},
		{get, "Authorization: a\nAuthorization: b\n", "a,b"},
		{resolve, "", ""},
		{resolve + "?", "", ""},
		{resolve + "?token", "", ""},
		{resolve + "?token=", "", ""},
		{resolve + "?Token=a&TOKEN=b&tokens=c", "", ""},
		{resolve + "?a=b?token=c", "", ""},
		{resolve, "Authorization: Bearer a\nToken: b\n", ""},
		{resolve + "?token=a", "", "a"},
		{resolve + "?%74oken=%61+b", "", "a b"},
		{resolve + "?token=a&b=c&token=d", "", "a,d"},
		{"POST /callbacks/token=a/resolve", "", ""},
	} {
		before, ran := api.count("authorize"), api.count("get")+api.count("resolve")
		resp := raw(t, s, c.line+" HTTP/1.1\nHost: x\nContent-Length: 0\n"+c.headers+"\n")
		if c.identity == "" {
			require.Equal(t, 401, resp.StatusCode, c)
			require.Equal(t, "application/json", resp.Header.Get("Content-Type"))
			require.NotEmpty(t, resp.Header.Get("Apigw-Requestid"))
			require.Equal(t, `{"message":"Unauthorized"}`, body(t, resp))
			require.Equal(t, before, api.count("authorize"), c)
			require.Equal(t, ran, api.count("get")+api.count("resolve"), c)
			continue
		}
		require.Equal(t, 204, resp.StatusCode, c)
		require.Equal(t, []any{c.identity}, api.last(t, "authorize")["identitySource"])
	}
}

func TestAuthorizerAnswers(t *testing.T) {
	t.Parallel()
	const (
		allowed   = ``
		forbidden = `{"message":"Forbidden"}`
		failed    = `{"message":"Internal Server Error"}`
	)
	status := map[string]int{allowed: 204, forbidden: 403, failed: 500}
	payload := func(p string) lambda.Result { return lambda.Result{Payload: []byte(p)} }
	for _, c := range []struct {
		result  lambda.Result
		err     error
		answer  string
		context string // of an allowed one
	}{
		{payload(`{"isAuthorized":true}`), nil, allowed, `null`},
		{payload(`{"isAuthorized":true,"context":null}`), nil, allowed, `null`},
		{payload(`{"isAuthorized":true,"context":{}}`), nil, allowed, `{}`},
		{payload(" { \"isAuthorized\" : true , \"context\" : {\"s\":\"<&>ä\",\"n\":1e2,\"b\":true,\"z\":null,\"l\":[1,\"2\"],\"m\":{\"k\":\"v\"}} , \"more\": 1 }\n"), nil,
			allowed, `{"s":"<&>ä","n":1e2,"b":true,"z":null,"l":[1,"2"],"m":{"k":"v"}}`},
		{payload(`{"isAuthorized":false}`), nil, forbidden, ""},
		{payload(`{"isAuthorized":false,"context":{"isAuthorized":true}}`), nil, forbidden, ""},

		{payload(``), nil, failed, ""},
		{payload(`null`), nil, failed, ""},
		{payload(`true`), nil, failed, ""},
		{payload(`[]`), nil, failed, ""},
		{payload(`{}`), nil, failed, ""},
		{payload(`no json`), nil, failed, ""},
		{payload(`{"isAuthorized":true`), nil, failed, ""},
		{payload(`{"isAuthorized":true} true`), nil, failed, ""},
		{payload(`{"isAuthorized":null}`), nil, failed, ""},
		{payload(`{"isAuthorized":"true"}`), nil, failed, ""},
		{payload(`{"isAuthorized":1}`), nil, failed, ""},
		{payload(`{"isauthorized":true}`), nil, failed, ""},
		{payload(`{"context":{"isAuthorized":true}}`), nil, failed, ""},
		{payload(`{"isAuthorized":true,"context":"x"}`), nil, failed, ""},
		{payload(`{"isAuthorized":true,"context":[]}`), nil, failed, ""},
		{payload(`{"isAuthorized":false,"context":1}`), nil, failed, ""},
		{payload(`{"principalId":"a","policyDocument":{"Version":"2012-10-17","Statement":[{"Action":"execute-api:Invoke","Effect":"Allow","Resource":"*"}]}}`),
			nil, failed, ""},
		{lambda.Result{ErrorType: "errorString", Payload: []byte(`{"isAuthorized":true}`)}, nil, failed, ""},
		{lambda.Result{ErrorType: "Sandbox.Timedout", TimedOut: true}, nil, failed, ""},
		{lambda.Result{}, lambda.ErrNotFound, failed, ""},
		{lambda.Result{}, lambda.ErrThrottled, failed, ""},
		{lambda.Result{}, lambda.ErrClosed, failed, ""},
		{lambda.Result{}, errors.New("anything"), failed, ""},
	} {
		api := newGuardedAPI(func(string) (lambda.Result, error) { return c.result, c.err })
		for range 2 {
			w := api.do("GET", "/promises/id:1", "Bearer a")
			require.Equal(t, status[c.answer], w.Code, string(c.result.Payload))
			require.Equal(t, c.answer, w.Body.String())
			require.NotEmpty(t, w.Header().Get("Apigw-Requestid"))
		}
		if c.answer == failed {
			require.Equal(t, 2, api.count("authorize"), "a failure is not cached")
		} else {
			require.Equal(t, 1, api.count("authorize"), "an answer is")
		}
		if c.answer != allowed {
			require.Zero(t, api.count("get"))
			continue
		}
		require.Equal(t, 2, api.count("get"))
		for _, req := range api.calls["get"] {
			require.Contains(t, string(req.Payload), `"authorizer":{"lambda":`+c.context+`}`, "cached or not")
		}
	}
}

// Both events, whole, of one request.
func TestAuthorizedEvents(t *testing.T) {
	t.Parallel()
	api := newGuardedAPI(returning(`{"isAuthorized":true,"context":{"tenant":"acme","verbs":["resolve"]}}`))
	api.now = time.Date(2026, 3, 5, 14, 7, 9, 250_000_000, time.FixedZone("", 3600))
	s := httptest.NewServer(api)
	t.Cleanup(s.Close)
	resp := raw(t, s, `POST /callbacks/key:50%25%252Fa+b%20c%2Fresolve%3Fd/reject?token=t%2Bk&a=1&a=2 HTTP/1.1
Host: api.example.test:3000
Content-Type: application/json
Authorization: not looked at
Cookie: a=b; c=d
User-Agent: test/1.0
X-Amzn-Trace-Id: Root=1-5759e988-bd862e3fe1be46a994272793
Content-Length: 13

{"value": 42}`)
	require.Equal(t, 204, resp.StatusCode)

	_, port, _ := net.SplitHostPort(s.Listener.Addr().String())
	common := fmt.Sprintf(`
		"version": "2.0",
		"routeKey": "POST /callbacks/{identifier}/resolve",
		"rawPath": "/callbacks/key:50%%%%2Fa+b c/resolve",
		"rawQueryString": "token=t%%2Bk&a=1&a=2",
		"cookies": ["a=b", "c=d"],
		"headers": {
			"host": "api.example.test:3000",
			"content-type": "application/json",
			"content-length": "13",
			"authorization": "not looked at",
			"user-agent": "test/1.0",
			"x-forwarded-for": "127.0.0.1",
			"x-forwarded-port": "%s",
			"x-forwarded-proto": "http",
			"x-amzn-trace-id": "Root=1-5759e988-bd862e3fe1be46a994272793"
		},
		"queryStringParameters": {"token": "t+k", "a": "1,2"},
		"pathParameters": {"identifier": "key:50%%%%2Fa+b c"}`, port)
	requestContext := fmt.Sprintf(`
			"accountId": "123456789012",
			"apiId": "local",
			"domainName": "api.example.test",
			"domainPrefix": "api",
			"http": {
				"method": "POST",
				"path": "/callbacks/key:50%%%%2Fa+b c/resolve",
				"protocol": "HTTP/1.1",
				"sourceIp": "127.0.0.1",
				"userAgent": "test/1.0"
			},
			"requestId": %q,
			"routeKey": "POST /callbacks/{identifier}/resolve",
			"stage": "$default",
			"time": "05/Mar/2026:13:07:09 +0000",
			"timeEpoch": 1772716029250`, resp.Header.Get("Apigw-Requestid"))

	asked := api.calls["authorize"][0]
	require.JSONEq(t, `{`+common+`,
		"type": "REQUEST",
		"routeArn": "arn:aws:execute-api:us-east-1:123456789012:local/$default/POST/callbacks/key:50%%2Fa+b c/resolve",
		"identitySource": ["t+k"],
		"requestContext": {`+requestContext+`}
	}`, string(asked.Payload))
	ran := api.calls["resolve"][0]
	require.JSONEq(t, `{`+common+`,
		"requestContext": {`+requestContext+`, "authorizer": {"lambda": {"tenant": "acme", "verbs": ["resolve"]}}},
		"body": "{\"value\": 42}",
		"isBase64Encoded": false
	}`, string(ran.Payload))
	require.Equal(t, "Root=1-5759e988-bd862e3fe1be46a994272793", asked.TraceID)
	require.Equal(t, asked.TraceID, ran.TraceID)

	var typed events.APIGatewayV2HTTPRequest
	require.NoError(t, json.Unmarshal(ran.Payload, &typed), "aws-lambda-go reads it")
	require.Equal(t, "acme", typed.RequestContext.Authorizer.Lambda["tenant"])
}

func TestAuthorizerEventOfABareRequest(t *testing.T) {
	t.Parallel()
	api := newGuardedAPI(about)
	s := httptest.NewServer(api)
	t.Cleanup(s.Close)
	raw(t, s, "POST /promises/id:1/resolve HTTP/1.1\nHost: x\nAuthorization: a\nTransfer-Encoding: chunked\n\n2\n{}\n0\n\n")
	asked := api.last(t, "authorize")
	for _, absent := range []string{"body", "isBase64Encoded", "cookies", "queryStringParameters", "stageVariables"} {
		require.NotContains(t, asked, absent)
	}
	require.NotContains(t, asked["requestContext"], "authentication")
	require.NotContains(t, asked["requestContext"], "authorizer")
	require.NotContains(t, asked["headers"], "content-length", "nobody knows it yet")
	ran := api.last(t, "resolve")
	require.Equal(t, "2", ran["headers"].(map[string]any)["content-length"])
	trace := ran["headers"].(map[string]any)["x-amzn-trace-id"]
	require.Equal(t, trace, asked["headers"].(map[string]any)["x-amzn-trace-id"], "one trace")
	require.Equal(t, trace, api.calls["authorize"][0].TraceID)
}

func TestOpenRouteHasNoAuthorizer(t *testing.T) {
	t.Parallel()
	api := newGuardedAPI(about)
	require.Equal(t, 204, api.do("GET", "/open", "Bearer a").Code)
	require.Zero(t, api.count("authorize"))
	require.NotContains(t, api.last(t, "get")["requestContext"], "authorizer")
}

func TestAuthorizerTimeout(t *testing.T) {
	t.Parallel()
	h := httpapi.New(guarded, guards, waiting{})
	require.Equal(t, 10*time.Second, h.AuthorizerTimeout)
	h.AuthorizerTimeout = 20 * time.Millisecond
	w := httptest.NewRecorder()
	r := httptest.NewRequest("GET", "/promises/id:1", nil)
	r.Header.Set("Authorization", "a")
	h.ServeHTTP(w, r)
	require.Equal(t, 500, w.Code, "not 503, as for an integration")
	require.Equal(t, `{"message":"Internal Server Error"}`, w.Body.String())
}

func TestAuthorizerIsAskedBeforeTheBodyIsJudged(t *testing.T) {
	t.Parallel()
	for authorization, want := range map[string]int{"": 401, "no": 403, "yes": 413} {
		api := newGuardedAPI(func(identity string) (lambda.Result, error) {
			return lambda.Result{Payload: fmt.Appendf(nil, `{"isAuthorized":%t}`, identity == "yes")}, nil
		})
		r := httptest.NewRequest("POST", "/promises/id:1/resolve", strings.NewReader(strings.Repeat("a", httpapi.MaxBody+1)))
		r.Header.Set("Authorization", authorization)
		w := httptest.NewRecorder()
		api.ServeHTTP(w, r)
		require.Equal(t, want, w.Code)
	}
}

// A client that leaves while the authorizer runs ends neither that nor what
// comes after it.
func TestAClientThatLeavesEndsNothing(t *testing.T) {
	t.Parallel()
	ctx, leave := context.WithCancel(context.Background())
	i := &leaving{leave: leave}
	h := httpapi.New(guarded, guards, i)
	r := httptest.NewRequestWithContext(ctx, "POST", "/promises/id:1/resolve", strings.NewReader("{}"))
	r.Header.Set("Authorization", "a")
	h.ServeHTTP(httptest.NewRecorder(), r)
	require.Error(t, ctx.Err())
	require.Equal(t, []string{"authorize", "resolve"}, i.ran)
}

type leaving struct {
	leave func()
	ran   []string
}

func (l *leaving) Invoke(ctx context.Context, function string, _ lambda.Request) (lambda.Result, error) {
	l.leave()
	if ctx.Err() != nil {
		return lambda.Result{}, ctx.Err()
	}
	l.ran = append(l.ran, function)
	return lambda.Result{Payload: []byte(`{"isAuthorized":true,"statusCode":204}`)}, nil
}

// Requests that no route has cost nothing, with or without a credential: a
// callback's URL, opened in a browser or by a preview, settles nothing.
func TestNoRouteNoAuthorizer(t *testing.T) {
	t.Parallel()
	called := 0
	h := httpapi.New(routes.HTTP, routes.Authorizers, invoker(func(string, lambda.Request) (lambda.Result, error) {
		called++
		return lambda.Result{}, nil
	}))
	for _, request := range []string{
		"GET /api/tenants/demo/callbacks/id:1/resolve?token=a",
		"HEAD /api/tenants/demo/callbacks/id:1/resolve?token=a",
		"GET /api/tenants/demo/callbacks/id:1/resolve/a",
		"POST /api/tenants/demo/callbacks/id:1/resolve/a/b",
		"POST /api/tenants/demo/callbacks/id:1/cancel/a",
		"OPTIONS /api/tenants/demo/callbacks/id:1/reject?token=a",
		"PUT /api/tenants/demo/callbacks/id:1/reject?token=a",
		"GET /api/tenants/demo/callbacks/id:1?token=a",
		"POST /api/tenants/demo/callbacks/id:1?token=a",
		"POST /api/tenants/demo/callbacks/id:1/cancel?token=a",
		"POST /api/tenants/demo/callbacks/id:1/resolve/?token=a",
		"GET /api/tenants/demo",
	} {
		method, target, _ := strings.Cut(request, " ")
		r := httptest.NewRequest(method, target, nil)
		r.Header.Set("Authorization", "Bearer a")
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		require.Equal(t, http.StatusNotFound, w.Code, request)
		require.Equal(t, `{"message":"Not Found"}`, w.Body.String())
	}
	require.Zero(t, called)
}

func TestWrongTables(t *testing.T) {
	t.Parallel()
	route := []routes.Route{{Method: "GET", Path: "/", Function: "f", Authorizer: "a"}}
	good := routes.Authorizer{Name: "a", Function: "authorize", IdentitySource: "$request.header.X"}
	require.NotPanics(t, func() { httpapi.New(route, []routes.Authorizer{good}, nil) })
	require.PanicsWithValue(t, "httpapi: GET / names an unknown authorizer: a", func() { httpapi.New(route, nil, nil) })
	require.PanicsWithValue(t, "httpapi: two authorizers are named a", func() {
		httpapi.New(route, []routes.Authorizer{good, good}, nil)
	})
	for _, source := range []string{
		"", "Authorization", "request.header.X", "$request.header.", "$request.querystring.", "$request.path.x",
		"$Request.header.X", "$context.routeKey", "method.request.header.X",
	} {
		bad := good
		bad.IdentitySource = source
		require.PanicsWithValue(t, fmt.Sprintf("httpapi: authorizer a: unknown identity source %q", source), func() {
			httpapi.New(route, []routes.Authorizer{bad}, nil)
		})
	}
}
