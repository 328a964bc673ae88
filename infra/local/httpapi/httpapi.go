// Package httpapi answers HTTP requests as an API Gateway HTTP API with Lambda
// proxy integrations, payload format 2.0, does: a route chooses a function, the
// request becomes its event, its result becomes the response.
package httpapi

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"time"

	"github.com/flovyn/promises/infra/local/lambda"
	"github.com/flovyn/promises/shared/routes"
)

const (
	// MaxBody is what an HTTP API accepts, in bytes. The event made of it must
	// also be within lambda.MaxPayload.
	MaxBody = 10 << 20
	// Timeout is how long an HTTP API waits for a function.
	Timeout = 30 * time.Second
)

// Invoker invokes functions; *lambda.Service is one.
type Invoker interface {
	Invoke(ctx context.Context, function string, req lambda.Request) (lambda.Result, error)
}

// Handler is an HTTP API of the given routes. It answers itself with 404 where
// no route has the request's method and path, 413 where the body is too large,
// 503 where a function does not answer in time or cannot be started now, and
// 500 where it fails or returns what is no response.
type Handler struct {
	Invoker Invoker
	// Timeout is the API's own; the constant Timeout if zero.
	Timeout time.Duration
	routes  router
}

// New makes the HTTP API.
func New(table []routes.Route, i Invoker) *Handler {
	return &Handler{Invoker: i, Timeout: Timeout, routes: newRouter(table)}
}

func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	requestID := newRequestID()
	h.answer(r, requestID).write(w, requestID)
}

func (h *Handler) answer(r *http.Request, requestID string) response {
	route, variables, ok := h.routes.match(r.Method, r.URL.EscapedPath())
	if !ok {
		return message(http.StatusNotFound)
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, MaxBody+1))
	if err != nil {
		return message(http.StatusBadRequest)
	}
	if len(body) > MaxBody {
		return message(http.StatusRequestEntityTooLarge)
	}
	e := newEvent(r, route, variables, body, requestID, time.Now())
	payload, err := encode(e)
	if err != nil {
		return message(http.StatusInternalServerError)
	}
	if len(payload) > lambda.MaxPayload {
		return message(http.StatusRequestEntityTooLarge)
	}

	// The client's leaving ends nothing: the function runs on, as on AWS.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), h.Timeout)
	defer cancel()
	result, err := h.Invoker.Invoke(ctx, route.Function, lambda.Request{
		Payload: payload,
		TraceID: e.Headers["x-amzn-trace-id"],
	})
	switch {
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, lambda.ErrThrottled), errors.Is(err, lambda.ErrClosed):
		return message(http.StatusServiceUnavailable)
	case err != nil:
		return message(http.StatusInternalServerError)
	case result.TimedOut:
		return message(http.StatusServiceUnavailable)
	case result.ErrorType != "":
		return message(http.StatusInternalServerError)
	}
	out, err := parseResponse(result.Payload)
	if err != nil {
		return message(http.StatusInternalServerError)
	}
	return out
}

// encode is json.Marshal without the escapes for HTML, which would make an
// event larger than it is on AWS.
func encode(e event) ([]byte, error) {
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
