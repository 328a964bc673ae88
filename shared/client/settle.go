package client

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/google/uuid"
)

// An Outcome is the effect of one settle call.
type Outcome string

// The outcomes.
const (
	OutcomeSettled   Outcome = "settled"   // this call settled the promise
	OutcomeDuplicate Outcome = "duplicate" // it was settled before with the same state and the same bytes: a success, too
	OutcomeConflict  Outcome = "conflict"  // it was settled before otherwise
	OutcomeTimedOut  Outcome = "timed_out" // its deadline passed first
	OutcomeCancelled Outcome = "cancelled" // its workflow cancelled it first
	OutcomeHeld      Outcome = "held"      // no promise has the key yet: the settlement waits for it
)

// A SettleResult is the answer to a settle call. The first settlement of a promise stays.
// State is the promise's state now, whatever this call did.
type SettleResult struct {
	Outcome   Outcome   `json:"outcome"`
	State     State     `json:"state"`     // empty if the settlement is held
	PromiseID uuid.UUID `json:"promiseId"` // uuid.Nil if the settlement is held

	IdempotencyKey string    `json:"idempotencyKey"` // of a settlement that is held
	ExpiresAt      time.Time `json:"expiresAt"`      // the settlement is held until then
}

// A SettleOption changes a settle call.
type SettleOption func(*settleCall)

type settleCall struct {
	strict          bool
	hold            *time.Duration
	comment, reason *string
}

// Strict makes the outcomes OutcomeConflict, OutcomeTimedOut and OutcomeCancelled errors,
// with the code of the same name. OutcomeDuplicate is a success with it, too.
func Strict() SettleOption { return func(s *settleCall) { s.strict = true } }

// Hold holds a settlement by key that comes before its promise, for d, 1 s to 7 days in
// whole seconds. A promise that is created with the key in time is then settled by it. The
// error by id, or of Cancel, has CodeUnknownField.
func Hold(d time.Duration) SettleOption { return func(s *settleCall) { s.hold = &d } }

// Comment adds a text that is kept with the settlement, 1 to 1,000 characters.
func Comment(text string) SettleOption { return func(s *settleCall) { s.comment = &text } }

// Reason adds the reason of a cancellation, 1 to 1,000 characters. The error of any other
// call has CodeUnknownField.
func Reason(text string) SettleOption { return func(s *settleCall) { s.reason = &text } }

// Resolve settles a promise with a value. The value is encoded as JSON, and a
// json.RawMessage is sent byte for byte. Two values are equal if their bytes are.
//
// The call may be repeated. Without Strict, a promise that was settled before is no error:
// read Outcome, and decide by State.
func (c *Client) Resolve(ctx context.Context, id Identifier, value any, options ...SettleOption) (SettleResult, error) {
	var f fields
	f.value("value", value)
	r := Request{Function: "resolve-by-id", Path: "/resolve"}
	if id.isKey {
		r.Function = "resolve-by-key"
	}
	return c.settle(ctx, id, r, f, options)
}

// Reject settles a promise with an error text. It may be repeated, as Resolve.
func (c *Client) Reject(ctx context.Context, id Identifier, message string, options ...SettleOption) (SettleResult, error) {
	var f fields
	f.text("error", message)
	return c.settle(ctx, id, Request{Function: "reject", Path: "/reject"}, f, options)
}

const cancelPromise = "cancel-promise"

// Cancel cancels a promise, for the workflow that owns it. It may be repeated, as Resolve.
func (c *Client) Cancel(ctx context.Context, id Identifier, options ...SettleOption) (SettleResult, error) {
	return c.settle(ctx, id, Request{Function: cancelPromise, Path: "/cancel"}, fields{list: []Field{}}, options)
}

func (c *Client) settle(ctx context.Context, id Identifier, r Request, f fields, options []SettleOption) (SettleResult, error) {
	var s settleCall
	for _, set := range options {
		set(&s)
	}
	if s.comment != nil {
		f.text("comment", *s.comment)
	}
	if s.reason != nil {
		f.text("reason", *s.reason)
		if r.Function != cancelPromise {
			f.fail(&Error{Op: r.Function, Code: CodeUnknownField, Field: "reason", Detail: "Only Cancel has a reason. Send a Comment."})
		}
	}
	if s.hold != nil {
		f.units("holdSeconds", *s.hold, time.Second)
		switch {
		case r.Function == cancelPromise:
			f.fail(&Error{Op: r.Function, Code: CodeUnknownField, Field: "holdSeconds", Detail: "A cancellation cannot be held. Leave Hold out."})
		case !id.isKey:
			f.fail(&Error{Op: r.Function, Code: CodeUnknownField, Field: "holdSeconds", Detail: "Hold needs a key. Name the promise by its key, or leave Hold out."})
		}
	}
	target, path, err := id.target()
	r.Method, r.Path, r.Target, r.Body, r.err = "POST", path+r.Path, target, f.list, join(err, f.err)
	if s.strict {
		var query fields
		query.flag("strict", true)
		r.Query = query.list
	}
	var result SettleResult
	err = c.call(ctx, r, &result)
	return result, err
}

// An Item is one settlement of a batch: a rejection if Error is set, and otherwise a
// resolution with Value.
type Item struct {
	Promise Identifier
	Value   any
	Error   *string
	Comment string
}

// An ItemResult is the result of one Item: SettleResult, or Err with an *Error.
type ItemResult struct {
	SettleResult
	Err error
}

// BatchResolve resolves and rejects 1 to 100 promises, in order and each by itself. It
// returns a result for each item. The error is that of the call as a whole. It may be
// repeated, as Resolve.
func (c *Client) BatchResolve(ctx context.Context, items []Item) ([]ItemResult, error) {
	list := []byte{'['}
	var fault error
	for i, item := range items {
		f := fields{}
		f.text("identifier", item.Promise.String())
		if item.Error != nil {
			f.text("error", *item.Error)
		} else {
			f.value("value", item.Value)
		}
		f.optional("comment", item.Comment)
		if f.err != nil && fault == nil {
			fault = fmt.Errorf("item %d: %w", i, f.err)
		}
		if i > 0 {
			list = append(list, ',')
		}
		list = append(list, object(f.list)...)
	}
	var answer struct{ Results []json.RawMessage }
	r := Request{
		Function: "batch-resolve", Method: "POST", Path: "/promises/batch-resolve", Body: []Field{{"items", append(list, ']')}}, err: fault,
	}
	if err := c.call(ctx, r, &answer); err != nil {
		return nil, err
	}
	if len(answer.Results) != len(items) {
		return nil, &Error{Op: r.op(), MaybeApplied: true, Detail: fmt.Sprintf("The answer has %d results for %d items.", len(answer.Results), len(items))}
	}
	results := make([]ItemResult, len(items))
	for i, text := range answer.Results {
		var e Error
		if json.Unmarshal(text, &e) == nil {
			e.Op = r.op()
			results[i].Err = &e
		} else if err := decode(r, Answer{Body: text}, &results[i].SettleResult); err != nil {
			results[i].Err = err
		}
	}
	return results, nil
}
