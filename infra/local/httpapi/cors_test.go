package httpapi_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/infra/local/httpapi"
	"github.com/flovyn/promises/infra/local/lambda"
)

const app, other = "https://app.example.com", "https://app.example.org"

// cors sends a request, with headers in pairs, and returns the answer's status and access-control-* headers.
func cors(t *testing.T, h http.Handler, method, path string, headers ...string) (int, map[string]string) {
	t.Helper()
	r := httptest.NewRequest(method, path, nil)
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	require.NotEmpty(t, w.Header().Get("Apigw-Requestid"))
	got := map[string]string{}
	for name := range w.Header() {
		if strings.HasPrefix(name, "Access-Control-") {
			require.Len(t, w.Header()[name], 1)
			got[name] = w.Header().Get(name)
		}
	}
	return w.Code, got
}

func TestCORS(t *testing.T) {
	t.Parallel()
	called := 0
	h := httpapi.New(table, nil, invoker(func(string, lambda.Request) (lambda.Result, error) {
		called++
		return lambda.Result{Payload: []byte(`{"statusCode":201,"headers":{"access-control-allow-origin":"*","Access-Control-Expose-Headers":"x","x-a":"b"}}`)}, nil
	}))
	const path, asks = "/api/tenants/demo/promises", "Access-Control-Request-Method"
	own := map[string]string{"Access-Control-Allow-Origin": "*", "Access-Control-Expose-Headers": "x"}

	code, got := cors(t, h, "OPTIONS", path, "Origin", app, asks, "POST")
	require.Equal(t, 404, code, "without origins as before")
	require.Empty(t, got)
	code, got = cors(t, h, "POST", path, "Origin", app)
	require.Equal(t, 201, code)
	require.Equal(t, own, got)

	h.CORSOrigins = []string{"https://a.example.com", app}
	called = 0
	preflight := map[string]string{
		"Access-Control-Allow-Origin":  app,
		"Access-Control-Allow-Methods": "GET,POST,DELETE",
		"Access-Control-Allow-Headers": "authorization,content-type",
		"Access-Control-Max-Age":       "3600",
	}
	for _, path := range []string{path, path + "/key:a/resolve?token=x", "/no/such/route"} {
		code, got = cors(t, h, "OPTIONS", path, "Origin", app, asks, "POST", "Access-Control-Request-Headers", "x-other")
		require.Equal(t, 204, code)
		require.Equal(t, preflight, got)
	}
	for _, origin := range []string{other, "null", strings.ToUpper(app), app + ":443", "http://app.example.com"} {
		code, got = cors(t, h, "OPTIONS", path, "Origin", origin, asks, "POST")
		require.Equal(t, 204, code, origin)
		require.Empty(t, got, origin)
	}
	for _, headers := range [][]string{{"Origin", app}, {asks, "POST"}, {}} {
		code, got = cors(t, h, "OPTIONS", path, headers...)
		require.Equal(t, 404, code, "no preflight request: %v", headers)
		require.Empty(t, got)
	}
	require.Zero(t, called)

	code, got = cors(t, h, "POST", path, "Origin", app)
	require.Equal(t, 201, code)
	require.Equal(t, map[string]string{"Access-Control-Allow-Origin": app}, got, "the function's own are ignored")
	for _, headers := range [][]string{{"Origin", other}, {}} {
		code, got = cors(t, h, "POST", path, headers...)
		require.Equal(t, 201, code)
		require.Empty(t, got, "the function's own are ignored")
	}
	code, got = cors(t, h, "GET", "/no/such/route", "Origin", app)
	require.Equal(t, 404, code)
	require.Empty(t, got, "the gateway's own answers have none")
}
