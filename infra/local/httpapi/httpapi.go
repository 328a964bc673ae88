// Package httpapi answers HTTP requests as an API Gateway HTTP API with Lambda
// authorizers and Lambda proxy integrations, payload format 2.0, does: a route
// chooses a function, its authorizer says who calls, the request becomes the
// function's event, its result becomes the response.
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
	// MaxRequests bounds the requests of one route that run at once. AWS bounds the
	// requests of a route in a second.
	MaxRequests = 200
	// MaxHead is the size of the largest head that an HTTP API accepts, in bytes:
	// "Total combined size of request line and header values",
	// https://docs.aws.amazon.com/apigateway/latest/developerguide/http-api-quotas.html
	MaxHead = 10240
	// MaxBody is what an HTTP API accepts, in bytes. The event made of it must
	// also be within lambda.MaxPayload.
	MaxBody = 10 << 20
	// Timeout is how long an HTTP API waits for a function.
	Timeout = 30 * time.Second
	// AuthorizerTimeout is how long it waits for an authorizer's:
	// https://docs.aws.amazon.com/apigateway/latest/developerguide/http-api-quotas.html
	AuthorizerTimeout = 10 * time.Second
)

// Invoker invokes functions; *lambda.Service is one.
type Invoker interface {
	Invoke(ctx context.Context, function string, req lambda.Request) (lambda.Result, error)
}

// Handler is an HTTP API of the given routes. It answers itself, in this order:
// 413 where the head of the request is larger than MaxHead; 204 to a preflight
// request, if there are CORSOrigins; 404 where no route has the request's method
// and path; 429 where MaxRequests of its route are running already; 401 where
// the identity source of the route's authorizer is missing or empty, 403 where
// the authorizer says no, and 500 where it fails, does not answer in time, cannot
// be started or returns what is no answer; 413 where the body is too large; 503
// where the route's function does not answer in time or cannot be started now,
// and 500 where it fails or returns what is no response.
//
// Neither function is told of a client that leaves: both run to their end, as
// on AWS. The handler reads a body after the authorizer has let the request in.
// While it does, the request does not count as running: a client that sends slowly
// takes no place from others.
type Handler struct {
	Invoker Invoker
	// Timeout and AuthorizerTimeout are the API's own, apart from the
	// functions'; New sets the constants of these names.
	Timeout           time.Duration
	AuthorizerTimeout time.Duration
	// CORSOrigins are the web origins whose pages may call the API, such as
	// https://app.example.com. If it is nil, the API answers no preflight requests.
	CORSOrigins []string
	// Now is the clock of the events and of the authorizers' caches; New sets
	// time.Now.
	Now         func() time.Time
	running     map[routes.Route]chan struct{} // a token for each request of the route
	routes      router
	authorizers map[string]*authorizer
}

// New makes the HTTP API. A route whose Authorizer is empty is open. New panics
// where the tables are wrong, so that no mistake in them opens a route: a route
// names an authorizer that is not there, two authorizers have one name, or an
// identity source is neither a header nor a query parameter.
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

// enter takes one of the route's places. It reports false if all are taken; else
// leave gives the place back.
func (h *Handler) enter(route routes.Route) (leave func(), ok bool) {
	places := h.running[route]
	select {
	case places <- struct{}{}:
		return func() { <-places }, true
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
		return message(http.StatusNotFound)
	}
	q := newRequest(r, path, route, variables, requestID, h.Now())
	if a := h.authorizers[route.Authorizer]; a != nil {
		leave, ok := h.enter(route)
		if !ok {
			return message(http.StatusTooManyRequests)
		}
		about, status := h.authorize(r.Context(), a, q)
		leave()
		if status != 0 {
			return message(status)
		}
		q.RequestContext.Authorizer = &authorizerContext{Lambda: about}
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, MaxBody+1))
	if err != nil {
		return message(http.StatusBadRequest)
	}
	if len(body) > MaxBody {
		return message(http.StatusRequestEntityTooLarge)
	}
	payload, err := encode(q.event(r.Header.Get("Content-Type"), body))
	if err != nil {
		return message(http.StatusInternalServerError)
	}
	if len(payload) > lambda.MaxPayload {
		return message(http.StatusRequestEntityTooLarge)
	}

	leave, ok := h.enter(route)
	if !ok {
		return message(http.StatusTooManyRequests)
	}
	defer leave()
	out, failed := h.invoke(r.Context(), route, q, payload)
	if failed != 0 {
		return message(failed)
	}
	h.allowOrigin(r, out)
	return out
}

// invoke runs the route's function. status is that of the API's own answer if
// the function gave none, and 0 otherwise.
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

// encode is json.Marshal without the escapes for HTML, which would make an
// event larger than it is on AWS.
func encode(e any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	err := enc.Encode(e)
	return bytes.TrimSuffix(b.Bytes(), []byte{'\n'}), err
}

// newRequestID is an id of the form that API Gateway's have: JKJaXmPLvHcESHA=.
func newRequestID() string {
	b := make([]byte, 11)
	rand.Read(b) //nolint:errcheck // never fails
	return base64.URLEncoding.EncodeToString(b)
}

// headSize is the size of the request line and the header lines, each with its
// line end, in the form that clients give them: one space after a header's colon.
// AWS documents the sum and not how it is formed; it may count less, so that a
// request within this limit is within its own.
func headSize(r *http.Request) int {
	size := len(r.Method) + len(" ") + len(r.RequestURI) + len(" ") + len(r.Proto) + len("\r\n")
	add := func(name, value string) { size += len(name) + len(": ") + len(value) + len("\r\n") }
	add("Host", r.Host) // net/http takes this header and the next two out of the others
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

// headTooLarge is what callers of API Gateway report for such a request
// (github.com/SalesforceCommerceCloud/pwa-kit/issues/2160). They do not say
// whether theirs is an HTTP API, so status and text are likely, not certain.
var headTooLarge = response{
	status:  http.StatusRequestEntityTooLarge,
	headers: map[string]string{"Content-Type": "text/plain"},
	body:    fmt.Appendf(nil, "HTTP header is larger than %d bytes.", MaxHead),
}
