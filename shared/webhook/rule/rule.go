// Package rule decides by a source's rules what a webhook does. A rule's expressions are
// CEL (https://cel.dev).
//
// An expression sees these variables:
//
//   - body: the request's body, a JSON value.
//   - headers: the request's headers, a map of strings. The names are in lower case.
//   - query: the parameters of the URL, a map of strings. A repeated parameter has its
//     first value.
//   - item: an element of the list that `each` makes. It exists only with `each`.
//
// `eventId` sees body and item only, because the sender may not have signed the rest.
//
// An expression may use CEL's standard functions and macros, optional types (body.?a.b,
// orValue), and these methods of strings: lowerAscii, upperAscii, trim, split, replace,
// substring, indexOf, lastIndexOf, and join of a list. They count in characters, as CEL's
// string extension does. No function reads a clock, a random number or the network. The
// pattern of matches is a literal. An expression makes no protobuf messages.
//
// The method omit returns an object without a field: body.omit('data.object.token'). Its
// argument is a literal path of names with a dot between them, so it cannot remove a name
// that has a dot. If there is no such field, the result is the object as it is. In a list
// it removes the field from each element. The result is encoded again as a value, so it
// does not have the body's bytes.
//
// Numbers: an integer of 64 bits, signed or unsigned, is an int or a uint, so that
// string(body.id) has exactly its digits; -0 is 0. A larger integer is a string of its
// digits. A number with a fraction or an exponent is a double, so that 1.0 is 1 and 1e3
// is 1000 in a text; a number that no double can hold is a string of its text. If a name
// is repeated in an object, its last value counts.
//
// An expression that costs more than MaxCost, or handles values larger than the limits
// below, is stopped, and its rule fails. A request has a budget, too.
package rule

import (
	"context"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/flovyn/promises/shared/promise"
)

// The limits beside those of package promise. A unit of cost is a step of CEL, 10 bytes
// of a text that a function reads or makes, or an element of a list that it compares or
// makes. An element that omit copies costs three. A match costs a unit for 10 bytes of
// its text, times the number of instructions of its pattern.
const (
	MaxCost        = 1_000_000 // of an expression's evaluation
	MaxRequestCost = 2_000_000 // of all evaluations for a request
	MaxBodyValues  = 100_000   // JSON values of a body
	MaxBodyDepth   = 256       // nested arrays and objects of a body
	MaxValueBytes  = 2 << 20   // JSON text that an expression makes
	MaxMadeBytes   = 16 << 20  // JSON texts that expressions make for a request
	MaxExpressions = 1 << 16   // bytes of all expressions of a source
	MaxHoldSeconds = 604_800
)

// A Program is a source's definition, ready to judge requests. It is safe for concurrent
// use.
type Program struct {
	prefix  string
	eventID *expression // nil: none
	each    *expression // nil: a request is judged as a whole
	rules   []rule
}

// A rule is a rule that Compile has checked.
type rule struct {
	name    string // see promise.Judgment
	then    string
	when    *expression // nil: always
	key     *expression
	value   *expression // nil: the body
	message *expression // nil: the body
	hold    int         // seconds
}

// Compile checks a definition and prepares its rules. The caller has merged what the
// definition's preset brings. The error is a *promise.Error with a field such as
// rules[0].when; its detail names the place in the expression. Compile ignores the
// verifier.
func Compile(d promise.SourceDefinition) (*Program, error) {
	if err := checkPrefix(d.KeyPrefix); err != nil {
		return nil, err
	}
	if err := checkHold("holdSeconds", d.HoldSeconds); err != nil {
		return nil, err
	}
	if n := expressionBytes(d); n > MaxExpressions {
		return nil, fault("rules", promise.CodeOutOfRange, "The expressions of a source may have at most "+
			strconv.Itoa(MaxExpressions)+" bytes in all. These have "+strconv.Itoa(n)+".")
	}
	c := compiler{definition: d, items: d.Each != ""}
	p := &Program{prefix: d.KeyPrefix}
	var err error
	if p.eventID, err = c.compile("eventId", d.EventID, eventScope); err != nil {
		return nil, err
	}
	if p.each, err = c.compile("each", d.Each, listScope); err != nil {
		return nil, err
	}
	if p.rules, err = c.compileRules(); err != nil {
		return nil, err
	}
	return p, nil
}

// Judge applies the rules to a request, or to each item of it. The first rule that
// matches applies.
//
// An error in `when` counts as false, unless a limit stopped the expression. Every other
// error makes the judgment Failed. A Failed judgment without a rule is one of a body or a
// list that no rule could see. Reason contains names of fields and rules, and a key that
// lacks the prefix, but no other value of the request.
//
// The judgments share the memory of in.Body. Judge itself fails only if ctx has ended. It
// is safe to repeat.
func (p *Program) Judge(ctx context.Context, in promise.WebhookInput) (promise.Judged, error) {
	r := &request{ctx: ctx, program: p, text: in.Body}
	judged := r.judge(in)
	if err := ctx.Err(); err != nil {
		return promise.Judged{}, err
	}
	return judged, nil
}

// fault returns the error of a field of a definition.
func fault(field string, code promise.Code, detail string) error {
	return &promise.Error{Code: code, Field: field, Detail: detail}
}

// checkPrefix fails unless prefix has 1 to 100 characters that a key may have.
func checkPrefix(prefix string) error {
	switch n := utf8.RuneCountInString(prefix); {
	case !utf8.ValidString(prefix) || strings.ContainsRune(prefix, utf8.RuneError):
		return fault("keyPrefix", promise.CodeInvalidUTF8, "keyPrefix must be valid UTF-8 without U+FFFD.")
	case strings.ContainsRune(prefix, 0):
		return fault("keyPrefix", promise.CodeNULCharacter, "keyPrefix must not contain a NUL character.")
	case n < 1 || n > 100:
		return fault("keyPrefix", promise.CodeOutOfRange, "keyPrefix must have 1 to 100 characters.")
	}
	return nil
}

// checkHold fails unless seconds is a time that a settlement may be held.
func checkHold(field string, seconds int) error {
	if seconds < 0 || seconds > MaxHoldSeconds {
		return fault(field, promise.CodeOutOfRange, field+" must be 0 to "+strconv.Itoa(MaxHoldSeconds)+". 0 holds nothing.")
	}
	return nil
}

// expressionBytes returns the length of a definition's own expressions.
func expressionBytes(d promise.SourceDefinition) int {
	n := len(d.EventID) + len(d.Each)
	for _, r := range d.Rules {
		n += len(r.When) + len(r.Key) + len(r.Value) + len(r.Error)
	}
	return n
}
