package httpapi

import (
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/flovyn/promises/shared/routes"
)

// The rules in this file are those of
// https://docs.aws.amazon.com/apigateway/latest/developerguide/http-api-cors.html
// It does not say how a preflight request from another origin is answered, and
// what API Gateway's own errors carry. Here the first is 204 without a header,
// and the second have none; a browser shows the page neither.

// preflight answers a browser that asks whether a page may call the API, for any
// path. It reports false for every other request, and without CORSOrigins.
func (h *Handler) preflight(r *http.Request) (response, bool) {
	if h.CORSOrigins == nil || r.Method != http.MethodOptions ||
		r.Header.Get("Origin") == "" || r.Header.Get("Access-Control-Request-Method") == "" {
		return response{}, false
	}
	out := response{status: http.StatusNoContent, headers: map[string]string{}}
	if h.allowOrigin(r, out) {
		out.headers["Access-Control-Allow-Methods"] = strings.Join(routes.CORS.Methods, ",")
		out.headers["Access-Control-Allow-Headers"] = strings.Join(routes.CORS.Headers, ",")
		out.headers["Access-Control-Max-Age"] = strconv.Itoa(int(routes.CORS.MaxAge.Seconds()))
	}
	return out, true
}

// allowOrigin adds the header that lets the page read a function's response, and
// reports whether it did. Those that the function gave itself are dropped. It
// changes nothing without CORSOrigins.
func (h *Handler) allowOrigin(r *http.Request, out response) bool {
	if h.CORSOrigins == nil {
		return false
	}
	for name := range out.headers {
		if strings.HasPrefix(name, "Access-Control-") {
			delete(out.headers, name)
		}
	}
	origin := r.Header.Get("Origin")
	if !slices.Contains(h.CORSOrigins, origin) {
		return false
	}
	out.headers["Access-Control-Allow-Origin"] = origin
	return true
}
