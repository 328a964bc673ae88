// Package httpapi answers HTTP requests like an API Gateway HTTP API with Lambda
// authorizers and Lambda proxy integrations, payload format 2.0. The route selects
// a function and an authorizer, which identifies the caller. The request becomes
// the function's event, and the function's result becomes the response.
package httpapi

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/flovyn/promises/infra/local/lambda"
	"github.com/flovyn/promises/shared/routes"
)

const (
	// MaxRequests bounds the requests of one route that run at once. AWS instead
	// bounds a route's requests per second.
	MaxRequests = 200
	// MaxHead is the maximum size of a request's head, in bytes:
	// "Total combined size of request line and header values",
	// https://docs.aws.amazon.com/apigateway/latest/developerguide/http-api-quotas.html
	MaxHead = 10240
	// MaxBody is the maximum size of a request's body, in bytes. The event that
	// contains the body must also fit into lambda.MaxPayload.
	MaxBody = 10 << 20
	// Timeout bounds the wait for a route's function.
	Timeout = 30 * time.Second
	// AuthorizerTimeout bounds the wait for an authorizer's function:
	// https://docs.aws.amazon.com/apigateway/latest/developerguide/http-api-quotas.html
	AuthorizerTimeout = 10 * time.Second
)

// An Invoker invokes functions. *lambda.Service implements it.
type Invoker interface {
	Invoke(ctx context.Context, function string, req lambda.Request) (lambda.Result, error)
}

// A Handler is an HTTP API. It makes these checks, in this order, and answers a
// failed one itself:
//
//   - 413 if the head of the request is larger than MaxHead;
//   - 204 to a preflight request, if CORSOrigins is set;
//   - 404 if no route has the request's method and path;
//   - 429 if MaxRequests of the route are already running;
//   - 401 if the identity source of the route's authorizer is missing or empty;
//   - 403 if the authorizer denies the request;
//   - 500 if the authorizer fails, times out, cannot be started or returns an
//     invalid response;
//   - 413 if the body is too large;
//   - 503 if the route's function times out or cannot be started now;
//   - 500 if the function fails or returns an invalid response.
//
// If the client disconnects, the authorizer and the function still run to their
// end, as on AWS. The handler reads the body after the authorizer has allowed the
// request. During that time the request does not count towards MaxRequests, so slow
// senders do not block other clients.
type Handler struct {
	Invoker Invoker
	// Timeout and AuthorizerTimeout are the API's own timeouts, in addition to the
	// functions' timeouts. New sets both to the constants of these names.
	Timeout           time.Duration
	AuthorizerTimeout time.Duration
	// CORSOrigins lists the web origins whose pages may call the API, such as
	// https://app.example.com. If it is nil, the API answers no preflight requests.
	CORSOrigins []string
	// Now is the clock for events and for the authorizers' caches. New sets it to
	// time.Now.
	Now         func() time.Time
	running     map[routes.Route]chan struct{} // one token for each running request of the route
	routes      router
	authorizers map[string]*authorizer
}

// New returns an HTTP API with the given routes. A route with an empty Authorizer
// needs no credential. New panics if a route names an unknown authorizer, if two
// authorizers have the same name, or if an identity source is neither a header nor a
// query parameter. So no mistake in the tables can leave a route unprotected.
func New(table []routes.Route, authorizers []routes.Authorizer, i Invoker) *Handler {
	h := &Handler{
		Invoker:           i,
		Timeout:           Timeout,
		AuthorizerTimeout: AuthorizerTimeout,
		Now:               time.Now,
		running:           make(map[routes.Route]chan struct{}, len(table)),
		routes:            newRouter(table),
		authorizers:       make(map[string]*authorizer, len(authorizers)),
	}
	for _, a := range authorizers {
		if h.authorizers[a.Name] != nil {
			panic("httpapi: two authorizers are named " + a.Name)
		}
		h.authorizers[a.Name] = newAuthorizer(a)
	}
	for _, r := range table {
		h.running[r] = make(chan struct{}, MaxRequests)
		if r.Authorizer != "" && h.authorizers[r.Authorizer] == nil {
			panic("httpapi: " + r.Method + " " + r.Path + " names an unknown authorizer: " + r.Authorizer)
		}
	}
	return h
}

func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	requestID := newRequestID()
	if headSize(r) > MaxHead {
		headTooLarge.write(w, requestID)
		return
	}
	h.answer(r, requestID).write(w, requestID)
}

// acquireSlot takes one of the route's MaxRequests slots, which release returns. It
// reports false if all slots are taken.
func (h *Handler) acquireSlot(route routes.Route) (release func(), ok bool) {
	slots := h.running[route]
	select {
	case slots <- struct{}{}:
		return func() { <-slots }, true
	default:
		return nil, false
	}
}

func (h *Handler) answer(r *http.Request, requestID string) response {
	if out, ok := h.preflight(r); ok {
		return out
	}
	path := path(r.URL)
	route, variables, ok := h.routes.match(r.Method, path)
	if !ok {
		return gatewayResponse(http.StatusNotFound)
	}
	q := newRequest(r, path, route, variables, requestID, h.Now())
	if a := h.authorizers[route.Authorizer]; a != nil {
		release, ok := h.acquireSlot(route)
		if !ok {
			return gatewayResponse(http.StatusTooManyRequests)
		}
		callerContext, status := h.authorize(r.Context(), a, q)
		release()
		if status != 0 {
			return gatewayResponse(status)
		}
		q.RequestContext.Authorizer = &authorizerContext{Lambda: callerContext}
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, MaxBody+1))
	if err != nil {
		return gatewayResponse(http.StatusBadRequest)
	}
	if len(body) > MaxBody {
		return gatewayResponse(http.StatusRequestEntityTooLarge)
	}
	payload, err := encode(q.event(r.Header.Get("Content-Type"), body))
	if err != nil {
		return gatewayResponse(http.StatusInternalServerError)
	}
	if len(payload) > lambda.MaxPayload {
		return gatewayResponse(http.StatusRequestEntityTooLarge)
	}

	release, ok := h.acquireSlot(route)
	if !ok {
		return gatewayResponse(http.StatusTooManyRequests)
	}
	defer release()
	out, failed := h.invoke(r.Context(), route, q, payload)
	if failed != 0 {
		return gatewayResponse(failed)
	}
	h.allowOrigin(r, out)
	return out
}

// invoke runs the route's function. If the function gives no response, status is that
// of the gateway's own response. Otherwise it is 0.
func (h *Handler) invoke(ctx context.Context, route routes.Route, q request, payload []byte) (out response, status int) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), h.Timeout)
	defer cancel()
	result, err := h.Invoker.Invoke(ctx, route.Function, lambda.Request{
		Payload:   payload,
		Qualifier: routes.HTTPAlias,
		TraceID:   q.Headers["x-amzn-trace-id"],
	})
	switch {
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, lambda.ErrThrottled), errors.Is(err, lambda.ErrClosed):
		return out, http.StatusServiceUnavailable
	case err != nil:
		return out, http.StatusInternalServerError
	case result.TimedOut:
		return out, http.StatusServiceUnavailable
	case result.ErrorType != "":
		return out, http.StatusInternalServerError
	}
	if out, err = parseResponse(result.Payload); err != nil {
		return out, http.StatusInternalServerError
	}
	return out, 0
}

// encode is json.Marshal without HTML escapes, which would make events larger than on
// AWS.
func encode(e any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	err := enc.Encode(e)
	return bytes.TrimSuffix(b.Bytes(), []byte{'\n'}), err
}

// newRequestID returns an id in the form of API Gateway's, such as JKJaXmPLvHcESHA=.
func newRequestID() string {
	b := make([]byte, 11)
	rand.Read(b) //nolint:errcheck // never fails
	return base64.URLEncoding.EncodeToString(b)
}

// headSize returns the size of the request line and the header lines, line ends
// included, with one space after each header's colon, as clients write them. AWS
// documents the limit but not the formula. Its formula may count fewer bytes, so a
// request within this limit is also within that of AWS.
func headSize(r *http.Request) int {
	size := len(r.Method) + len(" ") + len(r.RequestURI) + len(" ") + len(r.Proto) + len("\r\n")
	add := func(name, value string) { size += len(name) + len(": ") + len(value) + len("\r\n") }
	add("Host", r.Host) // net/http removes this header and the next two from r.Header
	for _, coding := range r.TransferEncoding {
		add("Transfer-Encoding", coding)
	}
	for name := range r.Trailer {
		add("Trailer", name)
	}
	for name, values := range r.Header {
		for _, value := range values {
			add(name, value)
		}
	}
	return size
}

// headTooLarge follows a report by callers of API Gateway
// (github.com/SalesforceCommerceCloud/pwa-kit/issues/2160). The report does not say
// whether they call an HTTP API, so status and text are likely but not certain.
var headTooLarge = response{
	status:  http.StatusRequestEntityTooLarge,
	headers: map[string]string{"Content-Type": "text/plain"},
	body:    fmt.Appendf(nil, "HTTP header is larger than %d bytes.", MaxHead),
}
