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
	"testing"
	"time"

	"github.com/aws/aws-lambda-go/events"
	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/infra/local/httpapi"
	"github.com/flovyn/promises/infra/local/lambda"
	"github.com/flovyn/promises/shared/routes"
)

func returning(payload string) func(string) (lambda.Result, error) {
	return func(string) (lambda.Result, error) { return lambda.Result{Payload: []byte(payload)}, nil }
}

func TestIdentityMissing(t *testing.T) {
	t.Parallel()
	api := newGuardedAPI(allow)
	s := httptest.NewServer(api)
	t.Cleanup(s.Close)
	const get, resolve = "GET /promises/id:1", "POST /callbacks/id:1/resolve"
	for name, c := range map[string]struct {
		line, headers string
		identity      string // empty: 401
	}{
		"no header":                            {get, "", ""},
		"an empty header":                      {get, "Authorization:\n", ""},
		"a blank header":                       {get, "Authorization: \t \n", ""},
		"another header":                       {get, "X-Authorization: Bearer a\n", ""},
		"a cookie":                             {get, "Cookie: Authorization=a\n", ""},
		"query parameters instead of a header": {get + "?Authorization=a&token=b", "", ""},
		"a header in lower case":               {get, "authorization: Bearer a\n", "Bearer a"},
		"a header in upper case, with spaces":  {get, "AUTHORIZATION:  Bearer a \n", "Bearer a"},
		"two headers are joined":               {get, "Authorization: a\nAuthorization: b\n", "a,b"},
		"no query":                             {resolve, "", ""},
		"an empty query":                       {resolve + "?", "", ""},
		"a parameter without a value":          {resolve + "?token", "", ""},
		"a parameter with an empty value":      {resolve + "?token=", "", ""},
		"parameters with other names":          {resolve + "?Token=a&TOKEN=b&tokens=c", "", ""},
		"a parameter inside another one":       {resolve + "?a=b?token=c", "", ""},
		"headers instead of a parameter":       {resolve, "Authorization: Bearer a\nToken: b\n", ""},
		"a parameter":                          {resolve + "?token=a", "", "a"},
		"an escaped parameter":                 {resolve + "?%74oken=%61+b", "", "a b"},
		"two parameters are joined":            {resolve + "?token=a&b=c&token=d", "", "a,d"},
		"a parameter in the path":              {"POST /callbacks/token=a/resolve", "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			before, ran := api.count("authorize"), api.count("get")+api.count("resolve")
			resp := raw(t, s, c.line+" HTTP/1.1\nHost: x\nContent-Length: 0\n"+c.headers+"\n")
			if c.identity == "" {
				require.Equal(t, 401, resp.StatusCode)
				require.Equal(t, "application/json", resp.Header.Get("Content-Type"))
				require.NotEmpty(t, resp.Header.Get("Apigw-Requestid"))
				require.Equal(t, `{"message":"Unauthorized"}`, body(t, resp))
				require.Equal(t, before, api.count("authorize"))
				require.Equal(t, ran, api.count("get")+api.count("resolve"))
				return
			}
			require.Equal(t, 204, resp.StatusCode)
			require.Equal(t, []any{c.identity}, api.last(t, "authorize")["identitySource"])
		})
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
	for name, c := range map[string]struct {
		result  lambda.Result
		err     error
		answer  string
		context string // of an allowed request
	}{
		"allowed":                              {payload(`{"isAuthorized":true}`), nil, allowed, `null`},
		"allowed with a null context":          {payload(`{"isAuthorized":true,"context":null}`), nil, allowed, `null`},
		"allowed with an empty context":        {payload(`{"isAuthorized":true,"context":{}}`), nil, allowed, `{}`},
		"allowed with a context of every type": {payload(" { \"isAuthorized\" : true , \"context\" : {\"s\":\"<&>ä\",\"n\":1e2,\"b\":true,\"z\":null,\"l\":[1,\"2\"],\"m\":{\"k\":\"v\"}} , \"more\": 1 }\n"), nil, allowed, `{"s":"<&>ä","n":1e2,"b":true,"z":null,"l":[1,"2"],"m":{"k":"v"}}`},
		"denied":                               {payload(`{"isAuthorized":false}`), nil, forbidden, ""},
		"denied with a context":                {payload(`{"isAuthorized":false,"context":{"isAuthorized":true}}`), nil, forbidden, ""},
		"an empty payload":                     {payload(``), nil, failed, ""},
		"null":                                 {payload(`null`), nil, failed, ""},
		"a boolean":                            {payload(`true`), nil, failed, ""},
		"an array":                             {payload(`[]`), nil, failed, ""},
		"an empty object":                      {payload(`{}`), nil, failed, ""},
		"text that is not JSON":                {payload(`no json`), nil, failed, ""},
		"half an object":                       {payload(`{"isAuthorized":true`), nil, failed, ""},
		"two values":                           {payload(`{"isAuthorized":true} true`), nil, failed, ""},
		"isAuthorized is null":                 {payload(`{"isAuthorized":null}`), nil, failed, ""},
		"isAuthorized is a string":             {payload(`{"isAuthorized":"true"}`), nil, failed, ""},
		"isAuthorized is a number":             {payload(`{"isAuthorized":1}`), nil, failed, ""},
		"isAuthorized in lower case":           {payload(`{"isauthorized":true}`), nil, failed, ""},
		"isAuthorized inside the context":      {payload(`{"context":{"isAuthorized":true}}`), nil, failed, ""},
		"the context is a string":              {payload(`{"isAuthorized":true,"context":"x"}`), nil, failed, ""},
		"the context is an array":              {payload(`{"isAuthorized":true,"context":[]}`), nil, failed, ""},
		"denied with a number as context":      {payload(`{"isAuthorized":false,"context":1}`), nil, failed, ""},
		"an IAM policy":                        {payload(`{"principalId":"a","policyDocument":{"Version":"2012-10-17","Statement":[{"Action":"execute-api:Invoke","Effect":"Allow","Resource":"*"}]}}`), nil, failed, ""},
		"a function error":                     {lambda.Result{ErrorType: "errorString", Payload: []byte(`{"isAuthorized":true}`)}, nil, failed, ""},
		"a timeout":                            {lambda.Result{ErrorType: "Sandbox.Timedout", TimedOut: true}, nil, failed, ""},
		"an unknown function":                  {lambda.Result{}, lambda.ErrNotFound, failed, ""},
		"throttled":                            {lambda.Result{}, lambda.ErrThrottled, failed, ""},
		"the service is closed":                {lambda.Result{}, lambda.ErrClosed, failed, ""},
		"another error":                        {lambda.Result{}, errors.New("anything"), failed, ""},
	} {
		t.Run(name, func(t *testing.T) {
			api := newGuardedAPI(func(string) (lambda.Result, error) { return c.result, c.err })
			for range 2 {
				w := api.do("GET", "/promises/id:1", "Bearer a")
				require.Equal(t, status[c.answer], w.Code)
				require.Equal(t, c.answer, w.Body.String())
				require.NotEmpty(t, w.Header().Get("Apigw-Requestid"))
			}
			if c.answer == failed {
				require.Equal(t, 2, api.count("authorize"), "a failure is not cached")
			} else {
				require.Equal(t, 1, api.count("authorize"), "a decision is cached")
			}
			if c.answer != allowed {
				require.Zero(t, api.count("get"))
				return
			}
			require.Equal(t, 2, api.count("get"))
			for _, req := range api.calls["get"] {
				require.Contains(t, string(req.Payload), `"authorizer":{"lambda":`+c.context+`}`, "cached or not")
			}
		})
	}
}

// One request produces these two complete events, for the authorizer and for the function.
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
	api := newGuardedAPI(allow)
	s := httptest.NewServer(api)
	t.Cleanup(s.Close)
	raw(t, s, "POST /promises/id:1/resolve HTTP/1.1\nHost: x\nAuthorization: a\nTransfer-Encoding: chunked\n\n2\n{}\n0\n\n")
	asked := api.last(t, "authorize")
	for _, absent := range []string{"body", "isBase64Encoded", "cookies", "queryStringParameters", "stageVariables"} {
		require.NotContains(t, asked, absent)
	}
	require.NotContains(t, asked["requestContext"], "authentication")
	require.NotContains(t, asked["requestContext"], "authorizer")
	require.NotContains(t, asked["headers"], "content-length", "the length is not known yet")
	ran := api.last(t, "resolve")
	require.Equal(t, "2", ran["headers"].(map[string]any)["content-length"])
	trace := ran["headers"].(map[string]any)["x-amzn-trace-id"]
	require.Equal(t, trace, asked["headers"].(map[string]any)["x-amzn-trace-id"], "one trace")
	require.Equal(t, trace, api.calls["authorize"][0].TraceID)
}

func TestOpenRouteHasNoAuthorizer(t *testing.T) {
	t.Parallel()
	api := newGuardedAPI(allow)
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
	require.Equal(t, 500, w.Code, "a route's function would get 503")
	require.Equal(t, `{"message":"Internal Server Error"}`, w.Body.String())
}

func TestAuthorizerRunsBeforeTheBodyIsChecked(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		authorization string
		want          int
	}{"no credential": {"", 401}, "a denied credential": {"no", 403}, "an allowed credential": {"yes", 413}} {
		t.Run(name, func(t *testing.T) {
			api := newGuardedAPI(func(identity string) (lambda.Result, error) {
				return lambda.Result{Payload: fmt.Appendf(nil, `{"isAuthorized":%t}`, identity == "yes")}, nil
			})
			r := httptest.NewRequest("POST", "/promises/id:1/resolve", strings.NewReader(strings.Repeat("a", httpapi.MaxBody+1)))
			r.Header.Set("Authorization", c.authorization)
			w := httptest.NewRecorder()
			api.ServeHTTP(w, r)
			require.Equal(t, c.want, w.Code)
		})
	}
}

// If a client disconnects while the authorizer runs, the authorizer and the route's function still run to their end.
func TestClientDisconnects_FunctionsRunOn(t *testing.T) {
	t.Parallel()
	ctx, disconnect := context.WithCancel(context.Background())
	i := &disconnectingInvoker{disconnect: disconnect}
	h := httpapi.New(guarded, guards, i)
	r := httptest.NewRequestWithContext(ctx, "POST", "/promises/id:1/resolve", strings.NewReader("{}"))
	r.Header.Set("Authorization", "a")
	h.ServeHTTP(httptest.NewRecorder(), r)
	require.Error(t, ctx.Err())
	require.Equal(t, []string{"authorize", "resolve"}, i.ran)
}

type disconnectingInvoker struct {
	disconnect func()
	ran        []string
}

func (l *disconnectingInvoker) Invoke(ctx context.Context, function string, _ lambda.Request) (lambda.Result, error) {
	l.disconnect()
	if ctx.Err() != nil {
		return lambda.Result{}, ctx.Err()
	}
	l.ran = append(l.ran, function)
	return lambda.Result{Payload: []byte(`{"isAuthorized":true,"statusCode":204}`)}, nil
}

// A request without a route invokes no function, even with a credential. So opening a callback URL in a browser or a link preview
// settles nothing.
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
		t.Run(request, func(t *testing.T) {
			method, target, _ := strings.Cut(request, " ")
			r := httptest.NewRequest(method, target, nil)
			r.Header.Set("Authorization", "Bearer a")
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			require.Equal(t, http.StatusNotFound, w.Code)
			require.Equal(t, `{"message":"Not Found"}`, w.Body.String())
			require.Zero(t, called)
		})
	}
}

func TestWrongTables(t *testing.T) {
	t.Parallel()
	route := []routes.Route{{Method: "GET", Path: "/", Function: "f", Authorizer: "a"}}
	valid := routes.Authorizer{Name: "a", Function: "authorize", IdentitySource: "$request.header.X"}
	t.Run("a valid table", func(t *testing.T) {
		require.NotPanics(t, func() { httpapi.New(route, []routes.Authorizer{valid}, nil) })
	})
	t.Run("an unknown authorizer", func(t *testing.T) {
		require.PanicsWithValue(t, "httpapi: GET / names an unknown authorizer: a", func() { httpapi.New(route, nil, nil) })
	})
	t.Run("two authorizers with one name", func(t *testing.T) {
		require.PanicsWithValue(t, "httpapi: two authorizers are named a", func() {
			httpapi.New(route, []routes.Authorizer{valid, valid}, nil)
		})
	})
	for _, source := range []string{
		"", "Authorization", "request.header.X", "$request.header.", "$request.querystring.", "$request.path.x",
		"$Request.header.X", "$context.routeKey", "method.request.header.X",
	} {
		t.Run(fmt.Sprintf("identity source %q", source), func(t *testing.T) {
			invalid := valid
			invalid.IdentitySource = source
			require.PanicsWithValue(t, fmt.Sprintf("httpapi: authorizer a: unknown identity source %q", source), func() {
				httpapi.New(route, []routes.Authorizer{invalid}, nil)
			})
		})
	}
}
