package gateway

import (
	"slices"
	"strings"
	"time"

	"github.com/flovyn/promises/shared/promise"
)

// readDirect reads a call of the direct form.
func (h *Handler) readDirect(payload []byte) (*call, error) {
	op := h.Operation
	if serves, instead := op.indirect(); serves != "" {
		return nil, promise.Fail(promise.CodeForbidden, op.name+" serves "+serves+" alone. "+instead)
	}
	body, err := parseObject(payload, op.directFields())
	if err != nil {
		if e := promise.AsError(err); e.Code == promise.CodeUnknownField && op.redirects[e.Field] != "" {
			err = fieldError(e.Field, e.Code, op.redirects[e.Field])
		}
		return nil, err
	}
	c := &call{
		principal: promise.Principal{By: promise.By{Kind: promise.KindDirect}}, parameters: parameters{object: body}, body: body,
		answerBy: h.answerBy(time.Time{}),
	}
	if c.tenant, err = c.body.requiredText("tenant"); err != nil {
		return nil, err
	}
	if err := op.readDirectTarget(c, body); err != nil {
		return nil, err
	}
	return c, checkTenant(c.tenant)
}

// readDirectTarget reads the fields that name the call's target.
func (op Operation) readDirectTarget(c *call, o object) (err error) {
	if op.checkIdentifier != nil {
		if c.identifier, err = o.promiseIdentifier(); err != nil {
			return err
		}
		if err := op.checkIdentifier(c.identifier); err != nil {
			return err
		}
	}
	if op.ofWorkflow {
		if c.workflow, err = requiredWorkflow(o); err != nil {
			return err
		}
	}
	if op.ofDelivery {
		id, err := o.optionalText("deliveryId")
		if err != nil {
			return err
		}
		if err := c.setDelivery(id); err != nil {
			return err
		}
	}
	if op.ofReceipt {
		id, err := o.requiredText("receiptId")
		if err != nil {
			return err
		}
		if err := c.setReceipt(id); err != nil {
			return err
		}
	}
	if op.checkName != nil {
		if c.name, err = readName(o, op.checkName); err != nil {
			return err
		}
	}
	return nil
}

// indirect returns what an operation without a direct form serves, and what to invoke
// in its place. Both are empty for every other operation.
func (op Operation) indirect() (serves, instead string) {
	switch {
	case op.callback:
		return "callback URLs", "Invoke resolve-by-id or reject."
	case op.webhook:
		return "the URLs of sources", "Invoke resolve-by-key or reject, or test-source of manage-integrations."
	}
	return "", ""
}

// readName reads the name of a destination or a source.
func readName(o object, check func(string) error) (string, error) {
	name, err := o.requiredText("name")
	if err != nil {
		return "", err
	}
	return name, within("name", check(name))
}

// readAction returns the action that a payload names. fields has the fields of all
// actions. The error for an unknown field lists them, sorted and each once.
func readAction(payload []byte, fields, names []string) (string, error) {
	fields = append([]string{"action"}, fields...)
	slices.Sort(fields)
	all, err := parseObject(payload, slices.Compact(fields))
	if err != nil {
		return "", err
	}
	name, err := all.requiredText("action")
	if err == nil && !slices.Contains(names, name) {
		slices.Sort(names)
		err = fieldError("action", promise.CodeOutOfRange, "There is no such action. The actions are: "+strings.Join(names, ", ")+".")
	}
	return name, err
}

// directFields returns the fields of the direct form.
func (op Operation) directFields() []string {
	fields := slices.Concat([]string{"tenant"}, op.body, op.parameters)
	if op.route != "" {
		fields = append(fields, "action")
	}
	if op.checkName != nil {
		fields = append(fields, "name")
	}
	if op.checkIdentifier != nil {
		fields = append(fields, "promiseId", "key")
	}
	if op.ofWorkflow {
		fields = append(fields, "workflowExecutionId", "workflowId")
	}
	if op.ofDelivery {
		fields = append(fields, "deliveryId")
	}
	if op.ofReceipt {
		fields = append(fields, "receiptId")
	}
	return fields
}

// promiseIdentifier reads the direct form's "promiseId" or "key".
func (o object) promiseIdentifier() (promise.Identifier, error) {
	id, err := o.optionalText("promiseId")
	if err != nil {
		return promise.Identifier{}, err
	}
	key, err := o.optionalText("key")
	switch {
	case err != nil:
		return promise.Identifier{}, err
	case (id == nil) == (key == nil):
		return promise.Identifier{}, promise.Fail(promise.CodeInvalidIdentifier, "Send promiseId or key, not both.")
	case key != nil:
		return promise.ByIdempotencyKey(*key)
	}
	u, err := promise.ParseID(*id)
	if err != nil {
		return promise.Identifier{}, err
	}
	return promise.ByID(u), nil
}
