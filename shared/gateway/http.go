package gateway

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"github.com/flovyn/promises/shared/promise"
	"github.com/flovyn/promises/shared/rawjson"
)

// readHTTP reads a call of a route: its target, the rights of its caller, then the
// rest. An error of authorization comes before every error about the call's form.
func (h *Handler) readHTTP(ctx context.Context, ev *event) (*call, error) {
	c := h.newCall(ev)
	target, malformed := h.Operation.readTarget(ev)
	if err := h.authorize(ctx, c, ev, target); err != nil {
		return c, err
	}
	if malformed != nil {
		return c, malformed
	}
	return c, h.Operation.decode(c, ev)
}

// newCall returns a call of the HTTP form with the parts that need no check. It has no
// principal yet.
func (h *Handler) newCall(ev *event) *call {
	return &call{tenant: ev.tenant, domain: ev.domain, answerBy: h.answerBy(ev.received)}
}

// readTarget returns the promise that the path names. It is the zero Identifier for an
// operation that takes none, and for an event whose body cannot be decoded.
func (op Operation) readTarget(ev *event) (promise.Identifier, error) {
	if ev.malformed != nil || op.checkIdentifier == nil {
		return promise.Identifier{}, ev.malformed
	}
	return promise.ParseIdentifier(ev.identifier)
}

// authorize sets the call's principal and target, and returns an error unless the
// principal may call the operation on the target. It first looks up a credential that
// the authorizer could not look up.
func (h *Handler) authorize(ctx context.Context, c *call, ev *event, target promise.Identifier) error {
	c.principal = ev.principal
	if c.principal.Kind == promise.KindUnverified {
		p, err := h.authenticate(ctx, ev.authorization, true, c.answerBy)
		if err != nil {
			return err
		}
		c.principal = p
	}
	c.identifier = target
	return c.principal.May(h.Operation.needs, c.tenant, target)
}

// authenticate looks up a credential: the token of a callback URL, or an
// Authorization header whose lookup failed in the authorizer. API Gateway may have
// cached that failure from before the database recovered. If the lookup fails,
// authenticate returns CodeUnavailable.
func (h *Handler) authenticate(ctx context.Context, source string, inHeader bool, answerBy time.Time) (promise.Principal, error) {
	ctx, stop := context.WithDeadline(ctx, answerBy)
	defer stop()
	p, err := h.Authenticate(ctx, source, inHeader)
	if err != nil && promise.AsError(err).Code == promise.CodeInternal {
		err = &promise.Error{
			Code: promise.CodeUnavailable, Detail: "The credential cannot be checked at the moment. Repeat the call.", Cause: err,
		}
	}
	return p, err
}

// decode checks the target of an authorized call, and reads its query and its body.
func (op Operation) decode(c *call, ev *event) (err error) {
	if op.checkIdentifier != nil {
		if err := op.checkIdentifier(c.identifier); err != nil {
			return err
		}
	}
	if op.ofWorkflow {
		if c.workflow, err = promise.ParseWorkflow(ev.workflow); err != nil {
			return err
		}
	}
	if op.ofDelivery {
		if err := c.setDelivery(ev.delivery); err != nil {
			return err
		}
	}
	if op.ofReceipt {
		if err := c.setReceipt(ev.receipt); err != nil {
			return err
		}
	}
	if op.checkName != nil {
		c.name = ev.name
		if err := within("name", op.checkName(c.name)); err != nil {
			return err
		}
	}
	if c.parameters, err = op.readQuery(ev.query); err != nil {
		return err
	}
	if op.body == nil || op.bodyOptional && len(ev.body) == 0 {
		return checkTenant(c.tenant)
	}
	if t := ev.contentType; t != nil && !isJSON(*t) {
		return errNotJSON
	}
	body, err := decompress(ev.body, ev.contentEncoding)
	if err != nil {
		return err
	}
	if c.body, err = parseObject(body, op.body); err != nil {
		return err
	}
	return checkTenant(c.tenant)
}

func (op Operation) readQuery(query json.RawMessage) (parameters, error) {
	p := parameters{quoted: true}
	for f := range rawjson.Fields(query) {
		name := string(f.Name)
		if !slices.Contains(op.parameters, name) {
			if detail, ok := op.redirects[name]; ok {
				return p, fieldError(name, promise.CodeInvalidParameter, detail)
			}
			detail := "There is no such query parameter. This call takes none."
			if len(op.parameters) > 0 {
				detail = "There is no such query parameter. The parameters are: " + strings.Join(op.parameters, ", ") + "."
			}
			return p, fieldError(name, promise.CodeInvalidParameter, detail)
		}
		p.object = append(p.object, f)
	}
	return p, nil
}
