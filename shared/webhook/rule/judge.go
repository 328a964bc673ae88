package rule

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/url"
	"strconv"
	"strings"
	"time"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"

	"github.com/flovyn/promises/shared/promise"
)

// The values of a rule's `then`.
const (
	thenResolve = "resolve"
	thenReject  = "reject"
	thenIgnore  = "ignore"
)

// A request is one call of Judge.
type request struct {
	ctx     context.Context
	program *Program
	text    []byte
	vars    variables
	lists   map[traits.Lister]span
	cost    uint64 // of the evaluations so far
	made    int    // bytes of JSON that the evaluations have made so far
}

// variables implements cel's Activation.
type variables struct {
	body, item     ref.Val // item is nil without `each`
	headers, query map[string]string
}

// ResolveName returns a variable.
func (v *variables) ResolveName(name string) (any, bool) {
	switch name {
	case "body":
		return v.body, true
	case "item":
		return v.item, v.item != nil
	case "headers":
		return v.headers, true
	case "query":
		return v.query, true
	default:
		return nil, false
	}
}

// Parent returns nil: there is no other scope.
func (v *variables) Parent() cel.Activation { return nil }

// judge judges the request as a whole, or each of its items.
func (r *request) judge(in promise.WebhookInput) promise.Judged {
	body, lists, err := decode(in.Body, r.program.each != nil)
	if err != nil {
		return failed(err.Error())
	}
	r.lists = lists
	r.vars = variables{body: body, headers: in.Header, query: firstValues(in.Query)}
	if r.program.each == nil {
		return promise.Judged{Items: []promise.Judgment{r.one(func() ([]byte, error) { return r.text, nil })}}
	}
	result, err := r.evaluate(r.program.each)
	if err != nil {
		return failed("each: " + r.program.each.explain(err))
	}
	list, ok := result.(traits.Lister)
	if !ok {
		return failed("each: the result is " + kind(result) + ", and must be a list")
	}
	if n := int(list.Size().(types.Int)); n > promise.MaxSourceItems {
		return failed("each: the list has " + strconv.Itoa(n) + " items, and may have " + strconv.Itoa(promise.MaxSourceItems))
	}
	return promise.Judged{Items: r.items(list), Each: true}
}

// failed returns the judgment of a request that no rule could judge.
func failed(reason string) promise.Judged {
	return promise.Judged{Items: []promise.Judgment{{Failed: true, Reason: reasons(reason)}}}
}

// items judges each element of a list.
func (r *request) items(list traits.Lister) []promise.Judgment {
	texts := r.itemTexts(list)
	judgments := []promise.Judgment{}
	for it := list.Iterator(); it.HasNext() == types.True && r.ctx.Err() == nil; {
		n := len(judgments)
		r.vars.item = it.Next()
		judgments = append(judgments, r.one(func() ([]byte, error) {
			if n < len(texts) {
				return texts[n], nil
			}
			return r.encode(r.vars.item)
		}))
	}
	return judgments
}

// itemTexts returns the texts of a list's elements as the body has them. It returns nil
// for a list that an expression made.
func (r *request) itemTexts(list traits.Lister) []json.RawMessage {
	at, ok := r.lists[list]
	if !ok {
		return nil
	}
	var texts []json.RawMessage
	if json.Unmarshal(r.text[at.from:at.to], &texts) != nil {
		return nil
	}
	return texts
}

// one judges the request, or the item that is in r.vars. text returns its JSON text.
func (r *request) one(text func() ([]byte, error)) promise.Judgment {
	j := promise.Judgment{Then: thenIgnore}
	var notes []string
	j.EventID, notes = r.eventID()
	for i := range r.program.rules {
		rule := &r.program.rules[i]
		matched, err := r.matches(rule)
		switch {
		case errors.Is(err, errBudget) || err != nil && stopped(err):
			return r.fail(j, rule, "when", rule.when, err, notes)
		case err != nil:
			notes = append(notes, "rule "+rule.name+", when: "+rule.when.explain(err))
		case matched:
			return r.apply(j, rule, text, notes)
		}
	}
	j.Reason = reasons(notes...)
	return j
}

// eventID returns the id that the body contains, and a note if there is none.
func (r *request) eventID() (id string, notes []string) {
	e := r.program.eventID
	if e == nil {
		return "", nil
	}
	v, err := r.evaluate(e)
	if err != nil {
		return "", []string{"eventId: " + e.explain(err)}
	}
	switch t := v.(type) {
	case types.String:
		id = string(t)
	case types.Int, types.Uint:
		id = string(t.ConvertToType(types.StringType).(types.String))
	default:
		return "", []string{"eventId: the result is " + kind(v) + ", and must be a string or an int"}
	}
	if len(id) > promise.MaxEventID || strings.ContainsRune(id, 0) {
		return "", []string{"eventId: the result must have at most " + strconv.Itoa(promise.MaxEventID) + " bytes without NUL"}
	}
	return id, nil
}

// matches evaluates a rule's `when`.
func (r *request) matches(rule *rule) (bool, error) {
	if rule.when == nil {
		return true, nil
	}
	v, err := r.evaluate(rule.when)
	if err != nil {
		return false, err
	}
	matched, ok := v.(types.Bool)
	if !ok {
		return false, functionError("the result is " + kind(v) + ", and must be a bool")
	}
	return bool(matched), nil
}

// apply carries out a rule that matched.
func (r *request) apply(j promise.Judgment, rule *rule, text func() ([]byte, error), notes []string) promise.Judgment {
	j.Rule, j.Then = rule.name, rule.then
	if rule.then == thenIgnore {
		j.Reason = reasons(notes...)
		return j
	}
	var err error
	if j.Key, err = r.key(rule); err != nil {
		return r.fail(j, rule, "key", rule.key, err, notes)
	}
	if rule.then == thenResolve {
		j.Result.State = promise.Resolved
		if j.Result.Value, err = r.value(rule, text); err != nil {
			return r.fail(j, rule, "value", rule.value, err, notes)
		}
	} else {
		j.Result.State = promise.Rejected
		if j.Result.Message, err = r.message(rule, text); err != nil {
			return r.fail(j, rule, "error", rule.message, err, notes)
		}
	}
	j.Hold = time.Duration(rule.hold) * time.Second
	j.Reason = reasons(notes...)
	return j
}

// fail returns the judgment of a rule that failed. e is nil if the part has no expression.
func (r *request) fail(j promise.Judgment, rule *rule, part string, e *expression, err error, notes []string) promise.Judgment {
	why := err.Error()
	if e != nil {
		why = e.explain(err)
	}
	j.Rule, j.Then, j.Result, j.Failed = rule.name, rule.then, promise.Result{}, true
	j.Reason = reasons(append([]string{"rule " + rule.name + ", " + part + ": " + why}, notes...)...)
	return j
}

// key returns the key that a rule makes.
func (r *request) key(rule *rule) (string, error) {
	v, err := r.evaluate(rule.key)
	if err != nil {
		return "", err
	}
	text, ok := v.(types.String)
	if !ok {
		return "", functionError("the result is " + kind(v) + ", and must be a string: use string(...)")
	}
	key := string(text)
	if _, err := promise.ByIdempotencyKey(key); err != nil {
		return "", functionError(promise.AsError(err).Detail)
	}
	if !strings.HasPrefix(key, r.program.prefix) {
		return "", functionError("the key " + cut(key, 100) + " does not begin with the source's keyPrefix " + cut(r.program.prefix, 100))
	}
	return key, nil
}

// value returns the value of a resolution.
func (r *request) value(rule *rule, text func() ([]byte, error)) ([]byte, error) {
	if rule.value == nil {
		return text()
	}
	v, err := r.evaluate(rule.value)
	if err != nil {
		return nil, err
	}
	return r.encode(v)
}

// encode returns a value as JSON, unless the request has made too much of it. A text that
// encode gives up counts, too, because its bytes took time.
func (r *request) encode(v ref.Val) ([]byte, error) {
	if err := r.make(0); err != nil {
		return nil, err
	}
	text, err := encode(v)
	tooMuch := r.make(len(text))
	if err != nil {
		return nil, functionError(err.Error())
	}
	return text, tooMuch
}

// make counts the bytes of a result that does not share the body's memory.
func (r *request) make(n int) error {
	if r.made += n; r.made > MaxMadeBytes {
		return functionError("the values of the request have more than " + strconv.Itoa(MaxMadeBytes) + " bytes")
	}
	return nil
}

// message returns the error of a rejection. A null or an empty one becomes a text of the
// service, because the sender has rejected the promise without a reason.
func (r *request) message(rule *rule, text func() ([]byte, error)) (*string, error) {
	var message string
	if rule.message == nil {
		body, err := text()
		if err != nil {
			return nil, err
		}
		message = string(bytes.TrimSpace(body))
		return &message, r.make(len(message))
	}
	v, err := r.evaluate(rule.message)
	if err != nil {
		return nil, err
	}
	switch t := v.(type) {
	case types.Null:
	case types.String:
		message = string(t)
	default:
		return nil, functionError("the result is " + kind(v) + ", and must be a string or null: use string(...)")
	}
	switch {
	case message == "":
		message = "rejected by rule " + rule.name
	case strings.ContainsRune(message, 0):
		return nil, functionError("the result contains a NUL character")
	case len(message) > MaxValueBytes:
		return nil, functionError("the result has more than " + strconv.Itoa(MaxValueBytes) + " bytes")
	}
	return &message, r.make(len(message))
}

// evaluate runs an expression within the request's budget.
func (r *request) evaluate(e *expression) (ref.Val, error) {
	if err := r.ctx.Err(); err != nil {
		return nil, err
	}
	if r.cost >= MaxRequestCost {
		return nil, errBudget
	}
	v, details, err := e.program.ContextEval(r.ctx, &r.vars)
	if cost := details.ActualCost(); cost != nil {
		r.cost += *cost
	} else {
		r.cost += MaxCost
	}
	if err != nil {
		return nil, err
	}
	r.cost += textCost(v) // the rule reads it
	return v, nil
}

// kind returns the name of a value's type.
func kind(v ref.Val) string { return "of type " + cut(v.Type().TypeName(), 40) }

// firstValues returns the parameters of a query. A repeated one has its first value.
func firstValues(query string) map[string]string {
	values, _ := url.ParseQuery(query) // it returns what it can read
	first := make(map[string]string, len(values))
	for name := range values {
		first[name] = values.Get(name)
	}
	return first
}
