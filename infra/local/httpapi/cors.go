package httpapi

import (
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/flovyn/promises/shared/routes"
)

// This file follows the rules of
// https://docs.aws.amazon.com/apigateway/latest/developerguide/http-api-cors.html
// They do not define the response to a preflight request from another origin, nor the
// CORS headers of API Gateway's own errors. Here the first is a 204 without CORS headers,
// and the errors have none. In both cases a browser hides the response from the page.

// preflight answers a browser's preflight request, for any path. It reports false for
// every other request, and always if CORSOrigins is nil.
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

// allowOrigin adds the header that lets the page read the response, and reports whether
// it did. It drops CORS headers that the function set. If CORSOrigins is nil, it changes
// nothing.
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
