package httpapi_test

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
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
)

// A fake is a function that records its input and returns a fixed result.
type fake struct {
	function string
	req      lambda.Request
	result   lambda.Result
	err      error
}

func (f *fake) start(t *testing.T) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(httpapi.New(table, nil, invoker(func(function string, req lambda.Request) (lambda.Result, error) {
		f.function, f.req = function, req
		return f.result, f.err
	})))
	t.Cleanup(s.Close)
	return s
}

func TestEvent(t *testing.T) {
	t.Parallel()
	f := &fake{}
	s := f.start(t)
	before := time.Now()
	resp := raw(t, s, `POST /api/tenants/de%20mo/promises/key:50%25%252Fa+b%23%c3%A4/resolve?a=1&a=2&b=x%20y+z%2C&empty=&=noname&bad=%zz HTTP/1.1
Host: api.example.test:3000
Content-Type: application/json; charset=utf-8
X-Custom: one
x-CUSTOM: two
Cookie: a=b; c=d
Cookie: e=f
User-Agent: test/1.0
X-Forwarded-For: 203.0.113.9
X-Amzn-Trace-Id: Root=1-5759e988-bd862e3fe1be46a994272793
Connection: close
Content-Length: 22

{"value": "<&>äöü"}`)
	require.Equal(t, "resolve", f.function)
	require.Equal(t, "Root=1-5759e988-bd862e3fe1be46a994272793", f.req.TraceID)

	var got map[string]any
	require.NoError(t, json.Unmarshal(f.req.Payload, &got))
	rc := got["requestContext"].(map[string]any)
	epoch := int64(rc["timeEpoch"].(float64))
	require.GreaterOrEqual(t, epoch, before.UnixMilli())
	require.LessOrEqual(t, epoch, time.Now().UnixMilli())
	at, err := time.Parse("02/Jan/2006:15:04:05 -0700", rc["time"].(string))
	require.NoError(t, err)
	require.Equal(t, epoch/1000, at.Unix())
	require.True(t, strings.HasSuffix(rc["time"].(string), " +0000"))
	require.Regexp(t, `^[\w-]{15}=$`, rc["requestId"])
	require.Equal(t, rc["requestId"], resp.Header.Get("apigw-requestid"))
	delete(rc, "timeEpoch")
	delete(rc, "time")
	delete(rc, "requestId")

	_, port, _ := net.SplitHostPort(s.Listener.Addr().String())
	want := fmt.Sprintf(`{
		"version": "2.0",
		"routeKey": "POST /api/tenants/{slug}/promises/{identifier}/resolve",
		"rawPath": "/api/tenants/de mo/promises/key:50%%%%2Fa+b#ä/resolve",
		"rawQueryString": "a=1&a=2&b=x%%20y+z%%2C&empty=&=noname&bad=%%zz",
		"cookies": ["a=b", "c=d", "e=f"],
		"headers": {
			"host": "api.example.test:3000",
			"content-type": "application/json; charset=utf-8",
			"content-length": "22",
			"user-agent": "test/1.0",
			"x-custom": "one,two",
			"x-forwarded-for": "203.0.113.9, 127.0.0.1",
			"x-forwarded-port": "%s",
			"x-forwarded-proto": "http",
			"x-amzn-trace-id": "Root=1-5759e988-bd862e3fe1be46a994272793"
		},
		"queryStringParameters": {"a": "1,2", "b": "x y z,", "empty": "", "": "noname", "bad": "%%zz"},
		"requestContext": {
			"accountId": "123456789012",
			"apiId": "local",
			"domainName": "api.example.test",
			"domainPrefix": "api",
			"http": {
				"method": "POST",
				"path": "/api/tenants/de mo/promises/key:50%%%%2Fa+b#ä/resolve",
				"protocol": "HTTP/1.1",
				"sourceIp": "127.0.0.1",
				"userAgent": "test/1.0"
			},
			"routeKey": "POST /api/tenants/{slug}/promises/{identifier}/resolve",
			"stage": "$default"
		},
		"pathParameters": {"slug": "de mo", "identifier": "key:50%%%%2Fa+b#ä"},
		"body": "{\"value\": \"<&>äöü\"}",
		"isBase64Encoded": false
	}`, port)
	all, err := json.Marshal(got)
	require.NoError(t, err)
	require.JSONEq(t, want, string(all))

	var typed events.APIGatewayV2HTTPRequest
	require.NoError(t, json.Unmarshal(f.req.Payload, &typed), "aws-lambda-go reads it")
	require.Equal(t, "key:50%%2Fa+b#ä", typed.PathParameters["identifier"])
}

func TestEventOfABareRequest(t *testing.T) {
	t.Parallel()
	f := &fake{}
	s := f.start(t)
	raw(t, s, "GET /api/tenants/demo/promises HTTP/1.1\nHost: localhost\n\n")
	var got map[string]any
	require.NoError(t, json.Unmarshal(f.req.Payload, &got))
	for _, absent := range []string{"body", "cookies", "queryStringParameters", "stageVariables"} {
		require.NotContains(t, got, absent)
	}
	require.Equal(t, "", got["rawQueryString"])
	require.Equal(t, false, got["isBase64Encoded"])
	h := got["headers"].(map[string]any)
	require.Equal(t, "0", h["content-length"])
	require.Equal(t, "127.0.0.1", h["x-forwarded-for"])
	require.Regexp(t, `^Root=1-[0-9a-f]{8}-[0-9a-f]{24}$`, h["x-amzn-trace-id"])
}

func TestBodies(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		contentType, body string
		text              bool
	}{
		"JSON is text":                     {"application/json", `{"a":1}`, true},
		"the type's case does not matter":  {"Application/JSON; charset=utf-8", `{"a":1}`, true},
		"plain text is text":               {"text/plain", "é\x00\r\n\t", true},
		"XML is text":                      {"application/xml", "<a/>", true},
		"JavaScript is text":               {"application/javascript", "1", true},
		"JSON that is not UTF-8 is base64": {"application/json", "{\"a\":\"\xff\xfe\"}", false},
		"text that is not UTF-8 is base64": {"text/plain", "\xc3", false},
		"without a type it is base64":      {"", `{"a":1}`, false},
		"form data is base64":              {"application/x-www-form-urlencoded", "a=b", false},
		"bytes are base64":                 {"application/octet-stream", "abc", false},
		"multipart data is base64":         {"multipart/form-data; boundary=x", "--x--", false},
	} {
		t.Run(name, func(t *testing.T) {
			f := &fake{}
			s := f.start(t)
			req, err := http.NewRequest("POST", s.URL+"/api/tenants/demo/promises", strings.NewReader(c.body))
			require.NoError(t, err)
			if c.contentType != "" {
				req.Header.Set("Content-Type", c.contentType)
			}
			_, err = http.DefaultClient.Do(req)
			require.NoError(t, err)
			var e events.APIGatewayV2HTTPRequest
			require.NoError(t, json.Unmarshal(f.req.Payload, &e))
			require.Equal(t, !c.text, e.IsBase64Encoded)
			got := e.Body
			if e.IsBase64Encoded {
				decoded, err := base64.StdEncoding.DecodeString(got)
				require.NoError(t, err)
				got = string(decoded)
			}
			require.Equal(t, c.body, got)
		})
	}
}

func TestRoutes(t *testing.T) {
	t.Parallel()
	for request, want := range map[string]string{
		"POST /api/tenants/demo/promises":                           "create",
		"GET /api/tenants/demo/promises":                            "list",
		"GET /api/tenants/demo/promises/id:1":                       "get",
		"GET /api/tenants/demo/promises/batch-resolve":              "get",
		"POST /api/tenants/demo/promises/batch-resolve":             "batch",
		"POST /api/tenants/demo/%70romises/batch-resolve":           "batch",
		"POST /api/tenants/demo/promises/other":                     "any-action",
		"POST /api/tenants/demo/promises%2Fother":                   "any-action",
		"POST /api/tenants/demo/promises/..%2F..%2Fx/resolve":       "",
		"GET /api/tenants/demo/promises/key:a%2Fb":                  "",
		"POST /api/tenants/demo/promises/key:a%2fb/resolve":         "",
		"GET /api/tenants/demo/promises/key:a%252Fb":                "get",
		"POST /api/tenants/demo/promises/key:a%2Fresolve":           "resolve",
		"GET /api/tenants/demo/promises/key:a%3Fb%23c":              "get",
		"GET /api/tenants/demo/promises/key:a%3Fb/resolve":          "get",
		"GET /api/tenants/demo/promises%3F/key:a":                   "list",
		"POST /api/tenants/demo/promises/batch-resolve%3Fx/resolve": "batch",
		"GET /api/tenants/demo/promises/%3Fb":                       "",
		"PUT /api/tenants/demo/promises/key:a%3Fb/resolve":          "",
		"GET /api/tenants/demo/promises/..":                         "get",
		"GET /api/tenants/demo/promises?x=/resolve":                 "list",
		"PUT /api/tenants/demo/promises":                            "",
		"HEAD /api/tenants/demo/promises":                           "",
		"OPTIONS /api/tenants/demo/promises":                        "",
		"post /api/tenants/demo/promises":                           "",
		"POST /api/tenants/demo/promises/":                          "",
		"POST /api/tenants//promises":                               "",
		"POST //api/tenants/demo/promises":                          "",
		"POST /api/tenants/demo/Promises":                           "",
		"GET /":                                                     "",
		"GET /api/tenants/demo/promises/key:a/b":                    "",
		"POST /api/tenants/demo/promises/key:a/b/resolve":           "",
		"POST /x/../api/tenants/demo/promises":                      "",
		"GET http://elsewhere/api/tenants/demo/promises/id:1":       "get",
		"POST /api/tenants/demo/promises/key:%E2%82%AC/resolve?a=b": "resolve",
	} {
		t.Run(request, func(t *testing.T) {
			f := &fake{result: lambda.Result{Payload: []byte(`{"statusCode":204}`)}}
			resp := raw(t, f.start(t), request+" HTTP/1.1\nHost: x\nContent-Length: 0\n\n")
			require.Equal(t, want, f.function)
			if want != "" {
				require.Equal(t, 204, resp.StatusCode)
				return
			}
			require.Equal(t, 404, resp.StatusCode)
			require.NotEmpty(t, resp.Header.Get("Apigw-Requestid"))
			require.Equal(t, "application/json", resp.Header.Get("Content-Type"))
			if !strings.HasPrefix(request, "HEAD") {
				require.Equal(t, `{"message":"Not Found"}`, body(t, resp))
			}
		})
	}
}

// An HTTP API decodes the path once and cuts it off at a decoded "?". The event contains the decoded path and the query string
// as it was sent.
func TestPaths(t *testing.T) {
	t.Parallel()
	const promises = "/api/tenants/demo/promises/"
	for sent, want := range map[string]struct{ identifier, query string }{
		"key:a%20b%2Bc+d":      {"key:a b+c+d", ""},
		"key:100%25":           {"key:100%", ""},
		"key:a%252Fb":          {"key:a%2Fb", ""},
		"key:a%252fb%253F":     {"key:a%2fb%3F", ""},
		"key:a%3Fb":            {"key:a", ""},
		"key:a%3Fb%3Fc/d?x=1":  {"key:a", "x=1"},
		"key:a%3fb?x=%3F&y=?z": {"key:a", "x=%3F&y=?z"},
		"key:a%23b":            {"key:a#b", ""},
		"key:a#b?c":            {"key:a#b", "c"},
		"key:%E2%82%AC":        {"key:€", ""},
		"key:€":                {"key:€", ""},
		"key:%00":              {"key:\x00", ""},
		"key:%ff":              {"key:\ufffd", ""},
		"key:\xff":             {"key:\ufffd", ""},
		"key:%ED%A0%80%C3":     {"key:\ufffd\ufffd\ufffd\ufffd", ""},
		"key:%3A%7E%2d":        {"key::~-", ""},
	} {
		t.Run(sent, func(t *testing.T) {
			f := &fake{result: lambda.Result{Payload: []byte(`{"statusCode":204}`)}}
			resp := raw(t, f.start(t), "GET "+promises+sent+" HTTP/1.1\nHost: x\n\n")
			require.Equal(t, 204, resp.StatusCode)
			var e events.APIGatewayV2HTTPRequest
			require.NoError(t, json.Unmarshal(f.req.Payload, &e))
			require.Equal(t, map[string]string{"slug": "demo", "identifier": want.identifier}, e.PathParameters)
			require.Equal(t, promises+want.identifier, e.RawPath)
			require.Equal(t, promises+want.identifier, e.RequestContext.HTTP.Path)
			require.Equal(t, want.query, e.RawQueryString)
		})
	}
	for _, sent := range []string{"key:%zz", "key:%", "key:%4", "key:a%2"} {
		t.Run("invalid escape "+sent, func(t *testing.T) {
			f := &fake{}
			resp := raw(t, f.start(t), "GET "+promises+sent+" HTTP/1.1\nHost: x\n\n")
			require.Equal(t, 400, resp.StatusCode)
			require.Empty(t, f.function)
		})
	}
}

// The request line and the header lines together may have 10,240 bytes.
func TestHeadSize(t *testing.T) {
	t.Parallel()
	const line, host = "GET /api/tenants/demo/promises/id:1?x=%s HTTP/1.1\r\n", "Host: x\r\n"
	f := &fake{result: lambda.Result{Payload: []byte(`{"statusCode":204}`)}}
	s := f.start(t)
	for name, more := range map[string]string{
		"one header":             "X-A: %s\r\n",
		"the same header twice":  "X-A: b\r\nx-a: %s\r\n",
		"with a cookie":          "Cookie: a=b; c=d\r\nCookie: e=%s\r\n",
		"with a body":            "Content-Length: 2\r\nX-A: %s\r\n",
		"with a body in chunks":  "Transfer-Encoding: chunked\r\nX-A: %s\r\n",
		"with Connection: close": "Connection: close\r\nX-A: %s\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			for over := range 2 {
				head := fmt.Sprintf(line, "") + host + fmt.Sprintf(more, "")
				fill := strings.Repeat("y", httpapi.MaxHead-len(head)+over)
				head = fmt.Sprintf(line, "") + host + fmt.Sprintf(more, fill)
				require.Len(t, head, httpapi.MaxHead+over)
				body := map[string]string{"with a body": "{}", "with a body in chunks": "0\r\n\r\n"}[name]
				requireHead(t, s, head+"\r\n"+body, over > 0)
			}
		})
	}
	t.Run("a long query string", func(t *testing.T) {
		head := fmt.Sprintf(line, "") + host
		for over := range 2 {
			long := strings.Replace(head, "?x=", "?x="+strings.Repeat("y", httpapi.MaxHead-len(head)+over), 1)
			requireHead(t, s, long+"\r\n", over > 0)
		}
	})
	t.Run("900,000 bytes", func(t *testing.T) {
		requireHead(t, s, fmt.Sprintf(line, "")+host+"X-A: "+strings.Repeat("y", 900_000)+"\r\n\r\n", true)
	})
}

// requireHead sends the request and checks whether its head is accepted or refused.
func requireHead(t *testing.T, s *httptest.Server, request string, refused bool) {
	t.Helper()
	conn, err := net.Dial("tcp", s.Listener.Addr().String())
	require.NoError(t, err)
	defer conn.Close()
	_, err = io.WriteString(conn, request)
	require.NoError(t, err)
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	require.NoError(t, err)
	if !refused {
		require.Equal(t, 204, resp.StatusCode)
		return
	}
	require.Equal(t, 413, resp.StatusCode)
	require.Equal(t, "text/plain", resp.Header.Get("Content-Type"))
	require.Equal(t, "HTTP header is larger than 10240 bytes.", body(t, resp))
	require.NotEmpty(t, resp.Header.Get("Apigw-Requestid"))
}

func TestResponses(t *testing.T) {
	t.Parallel()
	const json500 = `{"message":"Internal Server Error"}`
	const text = "text/plain;charset=UTF-8"
	for name, c := range map[string]struct {
		payload     string
		status      int
		contentType string
		body        string
	}{
		"a complete response":                          {`{"statusCode":201,"headers":{"content-type":"application/problem+json"},"body":"{}"}`, 201, "application/problem+json", "{}"},
		"a body alone has the type text":               {`{"statusCode":200,"body":"hi"}`, 200, text, "hi"},
		"the status may be a string":                   {`{"statusCode":"200","body":"hi"}`, 200, text, "hi"},
		"a base64 body is decoded":                     {`{"statusCode":200,"body":"AP8=","isBase64Encoded":true}`, 200, text, "\x00\xff"},
		"a status alone":                               {`{"statusCode":204}`, 204, text, ""},
		"a status without a body has the type text":    {`{"statusCode":200}`, 200, text, ""},
		"null fields are absent":                       {`{"statusCode":200,"body":null,"headers":null,"cookies":null}`, 200, text, ""},
		"without a status an object is the body":       {`{"promiseId":"x"}`, 200, "application/json", `{"promiseId":"x"}`},
		"without a status an array is the body":        {`[1, 2]`, 200, "application/json", `[1, 2]`},
		"without a status a string's text is the body": {`"text"`, 200, "application/json", `text`},
		"null is the body":                             {`null`, 200, "application/json", `null`},
		"text that is not JSON is the body":            {`no json`, 200, "application/json", `no json`},
		"a status that is not a number":                {`{"statusCode":"abc"}`, 500, "application/json", json500},
		"a status below 200":                           {`{"statusCode":99}`, 500, "application/json", json500},
		"a status above 599":                           {`{"statusCode":1000}`, 500, "application/json", json500},
		"a null status":                                {`{"statusCode":null}`, 500, "application/json", json500},
		"a body that is not a string":                  {`{"statusCode":200,"body":{}}`, 500, "application/json", json500},
		"a body that is not base64":                    {`{"statusCode":200,"body":"%","isBase64Encoded":true}`, 500, "application/json", json500},
		"a header that is a list":                      {`{"statusCode":200,"headers":{"a":["b"]}}`, 500, "application/json", json500},
	} {
		t.Run(name, func(t *testing.T) {
			f := &fake{result: lambda.Result{Payload: []byte(c.payload)}}
			resp, err := http.Get(f.start(t).URL + "/api/tenants/demo/promises/id:1")
			require.NoError(t, err)
			require.Equal(t, c.status, resp.StatusCode)
			require.Equal(t, c.contentType, resp.Header.Get("Content-Type"))
			require.Equal(t, c.body, body(t, resp))
			require.NotEmpty(t, resp.Header.Get("Apigw-Requestid"))
		})
	}
}

func TestResponseHeaders(t *testing.T) {
	t.Parallel()
	f := &fake{result: lambda.Result{Payload: []byte(`{"statusCode":503,"body":"abc",
		"headers":{"retry-after":5,"X-True":true,"x-a":"b","Content-Length":"99","Connection":"close"},
		"cookies":["a=b; Secure","c=d"]}`)}}
	resp, err := http.Get(f.start(t).URL + "/api/tenants/demo/promises/id:1")
	require.NoError(t, err)
	require.Equal(t, "abc", body(t, resp))
	require.Equal(t, "5", resp.Header.Get("Retry-After"))
	require.Equal(t, "true", resp.Header.Get("X-True"))
	require.Equal(t, "b", resp.Header.Get("X-A"))
	require.Equal(t, []string{"a=b; Secure", "c=d"}, resp.Header.Values("Set-Cookie"))
	require.EqualValues(t, 3, resp.ContentLength)
	require.False(t, resp.Close)
}

func TestFailures(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		f      fake
		status int
		body   string
	}{
		"the function returns an error": {fake{result: lambda.Result{ErrorType: "errorString", Payload: []byte(`{"statusCode":200}`)}},
			500, `{"message":"Internal Server Error"}`},
		"the function times out":    {fake{result: lambda.Result{ErrorType: "Sandbox.Timedout", TimedOut: true}}, 503, `{"message":"Service Unavailable"}`},
		"the API's own timeout":     {fake{err: context.DeadlineExceeded}, 503, `{"message":"Service Unavailable"}`},
		"the function is throttled": {fake{err: lambda.ErrThrottled}, 503, `{"message":"Service Unavailable"}`},
		"the function is not known": {fake{err: lambda.ErrNotFound}, 500, `{"message":"Internal Server Error"}`},
	} {
		t.Run(name, func(t *testing.T) {
			resp, err := http.Get(c.f.start(t).URL + "/api/tenants/demo/promises/id:1")
			require.NoError(t, err)
			require.Equal(t, c.status, resp.StatusCode)
			require.Equal(t, c.body, body(t, resp))
		})
	}
}

func TestTheAPIHasATimeoutOfItsOwn(t *testing.T) {
	t.Parallel()
	h := httpapi.New(table, nil, waiting{})
	h.Timeout = 20 * time.Millisecond
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	resp, err := http.Get(s.URL + "/api/tenants/demo/promises/id:1")
	require.NoError(t, err)
	require.Equal(t, 503, resp.StatusCode)
	require.Equal(t, 30*time.Second, httpapi.New(table, nil, nil).Timeout)
}

func TestSizes(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		size, status int
	}{
		"above the API's limit":                    {httpapi.MaxBody + 1, 413},
		"at the API's limit, and above Lambda's":   {httpapi.MaxBody, 413},
		"at Lambda's limit, but the event is more": {lambda.MaxPayload, 413},
		"below Lambda's limit, event included":     {lambda.MaxPayload - 64<<10, 200},
	} {
		t.Run(name, func(t *testing.T) {
			f := &fake{result: lambda.Result{Payload: []byte(`{"statusCode":200}`)}}
			// The complete runner reads such a body to its end before it answers.
			h := httpapi.New(table, nil, invoker(func(function string, req lambda.Request) (lambda.Result, error) {
				return f.result, nil
			}))
			w := httptest.NewRecorder()
			r := httptest.NewRequest("POST", "/api/tenants/demo/promises", strings.NewReader(strings.Repeat("a", c.size)))
			r.Header.Set("Content-Type", "text/plain")
			h.ServeHTTP(w, r)
			require.Equal(t, c.status, w.Code)
			if c.status == 413 {
				require.Equal(t, `{"message":"Request Entity Too Large"}`, w.Body.String())
			}
		})
	}
}

func TestTooManyRequests(t *testing.T) {
	t.Parallel()
	entered, release := make(chan struct{}), make(chan struct{})
	s := httptest.NewServer(httpapi.New(table, nil, invoker(func(string, lambda.Request) (lambda.Result, error) {
		entered <- struct{}{}
		<-release
		return lambda.Result{Payload: []byte(`{}`)}, nil
	})))
	t.Cleanup(s.Close)
	const path = "/api/tenants/demo/promises/id:1"
	answers := make(chan int)
	for range httpapi.MaxRequests {
		go func() {
			status := 0
			if resp, err := http.Get(s.URL + path); err == nil {
				status = resp.StatusCode
				_ = resp.Body.Close()
			}
			answers <- status
		}()
		<-entered
	}
	resp, err := http.Get(s.URL + path)
	require.NoError(t, err)
	require.Equal(t, http.StatusTooManyRequests, resp.StatusCode)
	require.Equal(t, `{"message":"Too Many Requests"}`, body(t, resp))
	require.NotEmpty(t, resp.Header.Get("Apigw-Requestid"))

	go func() {
		for range entered { //nolint:revive // further requests pass at once
		}
	}()
	defer close(entered)
	close(release)
	for range httpapi.MaxRequests {
		require.Equal(t, http.StatusOK, <-answers)
	}
	resp, err = http.Get(s.URL + path)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, resp.StatusCode)
}
