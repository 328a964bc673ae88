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

// cors sends a request with the given header names and values. It returns the status and the CORS headers of the response.
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
	called := 0 // invocations of the function, which sets CORS headers of its own
	h := httpapi.New(table, nil, invoker(func(string, lambda.Request) (lambda.Result, error) {
		called++
		return lambda.Result{Payload: []byte(`{"statusCode":201,"headers":{"access-control-allow-origin":"*","Access-Control-Expose-Headers":"x","x-a":"b"}}`)}, nil
	}))
	const path, asks = "/api/tenants/demo/promises", "Access-Control-Request-Method"

	t.Run("without origins preflight requests get 404", func(t *testing.T) {
		code, got := cors(t, h, "OPTIONS", path, "Origin", app, asks, "POST")
		require.Equal(t, 404, code)
		require.Empty(t, got)
	})
	t.Run("without origins a function sets its own headers", func(t *testing.T) {
		code, got := cors(t, h, "POST", path, "Origin", app)
		require.Equal(t, 201, code)
		require.Equal(t, map[string]string{"Access-Control-Allow-Origin": "*", "Access-Control-Expose-Headers": "x"}, got)
	})

	h.CORSOrigins = []string{"https://a.example.com", app}
	called = 0
	for name, path := range map[string]string{
		"preflight of a route": path, "preflight of another route": path + "/key:a/resolve?token=x", "preflight of no route": "/no/such/route",
	} {
		t.Run(name, func(t *testing.T) {
			code, got := cors(t, h, "OPTIONS", path, "Origin", app, asks, "POST", "Access-Control-Request-Headers", "x-other")
			require.Equal(t, 204, code)
			require.Equal(t, map[string]string{
				"Access-Control-Allow-Origin":  app,
				"Access-Control-Allow-Methods": "GET,POST,PUT,DELETE",
				"Access-Control-Allow-Headers": "authorization,content-type",
				"Access-Control-Max-Age":       "3600",
			}, got)
		})
	}
	for _, origin := range []string{other, "null", strings.ToUpper(app), app + ":443", "http://app.example.com"} {
		t.Run("preflight from "+origin, func(t *testing.T) {
			code, got := cors(t, h, "OPTIONS", path, "Origin", origin, asks, "POST")
			require.Equal(t, 204, code)
			require.Empty(t, got)
		})
	}
	for name, headers := range map[string][]string{
		"OPTIONS without a requested method": {"Origin", app}, "OPTIONS without an origin": {asks, "POST"}, "OPTIONS without headers": {},
	} {
		t.Run(name, func(t *testing.T) {
			code, got := cors(t, h, "OPTIONS", path, headers...)
			require.Equal(t, 404, code, "it is no preflight request")
			require.Empty(t, got)
		})
	}
	t.Run("preflight requests invoke no function", func(t *testing.T) { require.Zero(t, called) })

	t.Run("the gateway replaces the function's headers", func(t *testing.T) {
		code, got := cors(t, h, "POST", path, "Origin", app)
		require.Equal(t, 201, code)
		require.Equal(t, map[string]string{"Access-Control-Allow-Origin": app}, got)
	})
	for name, headers := range map[string][]string{"another origin": {"Origin", other}, "no origin": {}} {
		t.Run("the gateway drops the function's headers for "+name, func(t *testing.T) {
			code, got := cors(t, h, "POST", path, headers...)
			require.Equal(t, 201, code)
			require.Empty(t, got)
		})
	}
	t.Run("the gateway's own responses have no headers", func(t *testing.T) {
		code, got := cors(t, h, "GET", "/no/such/route", "Origin", app)
		require.Equal(t, 404, code)
		require.Empty(t, got)
	})
}
