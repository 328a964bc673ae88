// Package gateway translates between Lambda and the domain. Each function takes
// both forms of call:
//
//   - an API Gateway HTTP API event (payload format 2.0), answered with status,
//     headers and body. Only API Gateway may send it (Handler.HTTPAlias). A
//     function without a route refuses every event;
//   - a direct invoke, {"tenant": slug, "promiseId" or "key", ...the body's
//     fields}, answered with the HTTP body alone. Its errors are Lambda function
//     errors: errorType is the problem's code, errorMessage the problem's JSON.
//
// Input is strict. A field that is unknown, repeated, missing, null, of another
// type or spelt in another case is an error, and the call then writes nothing.
// Only the fields that take any JSON, such as value, may be null.
package gateway

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/aws/aws-lambda-go/lambdacontext"
	"github.com/google/uuid"

	"github.com/flovyn/promises/shared/promise"
)

// Invoke answers one call of either form. Its error is a
// messages.InvokeResponse_Error. The HTTP form returns one only if the event is
// not API Gateway's.
func (h *Handler) Invoke(ctx context.Context, payload []byte) ([]byte, error) {
	if len(h.Operation.members) > 0 {
		return h.invokeMember(ctx, payload)
	}
	c, a, isHTTP, err := h.run(ctx, payload)
	if err != nil {
		e := promise.AsError(err)
		h.log(ctx, c, e)
		if !isHTTP {
			return nil, functionError(e)
		}
		return encodeProblem(e), nil
	}
	if !isHTTP {
		return a.body, nil
	}
	return encodeResponse(a, cmp.Or(a.mediaType, "application/json")), nil
}

// run reads a call and executes the operation. isHTTP reports whether the answer has
// the HTTP form; it is false for a refused event. run turns a panic into an internal
// error, so that the caller never sees the stack.
func (h *Handler) run(ctx context.Context, payload []byte) (c *call, a answer, isHTTP bool, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v\n%s", r, debug.Stack())
		}
	}()
	ev, isHTTP := readEvent(payload)
	switch {
	case isHTTP && !h.sentByGateway(ctx):
		return nil, answer{}, false, h.Operation.eventRefused()
	case isHTTP && h.Operation.callback:
		c, err = h.readCallback(ctx, &ev)
	case isHTTP && h.Operation.webhook:
		c, err = h.readWebhook(ctx, &ev)
	case isHTTP:
		c, err = h.readHTTP(ctx, &ev)
	default:
		c, err = h.readDirect(payload)
	}
	if err != nil {
		return c, answer{}, isHTTP, err
	}
	if !h.Operation.ownTime {
		var stop context.CancelFunc
		ctx, stop = context.WithDeadline(ctx, c.answerBy)
		defer stop()
	}
	a, err = h.Operation.do(ctx, h, c)
	if errors.Is(err, promise.ErrNotFound) {
		if suspended := h.suspended(ctx, c); suspended != nil {
			err = suspended
		}
	}
	return c, a, isHTTP, err
}

// invokeMember answers one call of the member that the call names: by its route, or by
// its action.
func (h *Handler) invokeMember(ctx context.Context, payload []byte) ([]byte, error) {
	op := h.Operation
	var names, fields []string
	ev, isHTTP := readEvent(payload)
	for _, m := range op.members {
		if isHTTP && m.route == ev.routeKey {
			return h.as(m).Invoke(ctx, payload)
		}
		names, fields = append(names, m.name), append(fields, m.directFields()...)
	}
	var err error
	switch {
	case isHTTP && h.sentByGateway(ctx):
		return encodeProblem(promise.Fail(promise.CodeNotFound, "There is no such route.")), nil
	case isHTTP:
		err = promise.Fail(promise.CodeForbidden, op.name+" takes no API Gateway event from a direct invoke. Send an object with a tenant and an action: "+
			strings.Join(names, ", ")+".")
	default:
		var name string
		if name, err = readAction(payload, fields, names); err == nil {
			i := slices.IndexFunc(op.members, func(m Operation) bool { return m.name == name })
			return h.as(op.members[i]).Invoke(ctx, payload)
		}
	}
	e := promise.AsError(err)
	h.log(ctx, nil, e)
	return nil, functionError(e)
}

// as returns the handler of one member.
func (h *Handler) as(member Operation) *Handler {
	one := *h
	one.Operation = member
	return &one
}

// eventRefused returns the error for an event that API Gateway did not send.
func (op Operation) eventRefused() *promise.Error {
	_, instead := op.indirect()
	if instead == "" {
		instead = "Send an object of these fields: " + strings.Join(op.directFields(), ", ") + "."
	}
	return promise.Fail(promise.CodeForbidden, op.name+" takes no API Gateway event from a direct invoke. "+instead)
}

// sentByGateway reports whether an event is API Gateway's: the operation has a
// route, and the invoked ARN ends in the alias. Without an alias, the route is
// enough.
func (h *Handler) sentByGateway(ctx context.Context) bool {
	if h.Operation.directOnly || h.HTTPAlias == "" {
		return !h.Operation.directOnly
	}
	lc, ok := lambdacontext.FromContext(ctx)
	return ok && strings.HasSuffix(lc.InvokedFunctionArn, ":"+h.HTTPAlias) && strings.Count(lc.InvokedFunctionArn, ":") == 7
}

// log logs a failed call. c is nil if the call could not be read.
func (h *Handler) log(ctx context.Context, c *call, e *promise.Error) {
	if h.Operation.webhook && e.Code == promise.CodeUnauthenticated && c != nil && c.webhook == nil {
		return // Webhooks.Verify has logged it, or counted it for a line to come
	}
	attrs := []slog.Attr{slog.String("operation", h.Operation.name)}
	if c != nil {
		if p := c.principal; p.Kind == promise.KindDirect || p.Tenant == c.tenant { // any other slug is the caller's unverified text
			attrs = append(attrs, slog.String("tenant", truncate(c.tenant)))
		}
		if c.webhook != nil {
			attrs = append(attrs, slog.String("source", c.webhook.Source.Name))
		}
		if id, ok := c.identifier.ID(); ok && id != uuid.Nil {
			attrs = append(attrs, slog.String("promiseId", id.String()))
		}
	}
	logFailure(ctx, h.Log, e, attrs...)
}
