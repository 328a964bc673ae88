package client

import (
	"context"
	"encoding/json"
	"net/url"
	"strconv"
	"time"
	"unicode/utf8"
)

// maxRequest is the largest size of a request. "6 MB each for request and response
// (synchronous)": https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html
const maxRequest = 6 << 20

// MaxAnswer is the largest size of an answer that a Transport reads, in bytes. Lambda's
// answers have at most 6 MB.
const MaxAnswer = 8 << 20

// A Transport carries requests to the service. It is safe for concurrent use.
//
// Send sends a request once. It returns the answer of a call that succeeded, and an *Error
// for every other, with Temporary and MaybeApplied set. The error has neither the payload
// nor a credential.
type Transport interface {
	Send(ctx context.Context, r Request) (Answer, error)
}

// An Answer is the answer to a call that succeeded.
type Answer struct {
	Body       []byte        // JSON
	Status     int           // of HTTP; 0 for a direct invoke
	RetryAfter time.Duration // 0: the answer has none
}

// A Request is one call of the service, in both of its forms. Path, Query and Body make
// the HTTP request. Target, Query and Body make the payload of a direct invoke.
type Request struct {
	Tenant   string
	Function string // the Lambda function, without the prefix of a deployment
	Action   string // of manage-integrations; empty for every other function
	Method   string // of HTTP
	Path     string // below /api/tenants/{slug}, escaped
	Target   []Field
	Query    []Field
	Body     []Field // nil: no body
	Once     bool    // a call that may have been applied is not repeated

	err error // why the request cannot be sent
}

// A Field is a field of a JSON object.
type Field struct {
	Name  string
	Value json.RawMessage
}

// op returns the name of the operation, for errors.
func (r Request) op() string {
	if r.Action != "" {
		return r.Action
	}
	return r.Function
}

// URL returns the path below the base URL, with the query.
func (r Request) URL() string {
	u := "/api/tenants/" + url.PathEscape(r.Tenant) + r.Path
	query := url.Values{}
	for _, f := range r.Query {
		var text string
		if json.Unmarshal(f.Value, &text) != nil {
			text = string(f.Value) // a number or a flag
		}
		query.Set(f.Name, text)
	}
	if len(query) > 0 {
		u += "?" + query.Encode()
	}
	return u
}

// JSON returns the body of the HTTP form, or nil if there is none.
func (r Request) JSON() []byte {
	if r.Body == nil {
		return nil
	}
	return object(r.Body)
}

// Payload returns the payload of the direct form.
func (r Request) Payload() []byte {
	head := []Field{{"tenant", quote(r.Tenant)}}
	if r.Action != "" {
		head = append(head, Field{"action", quote(r.Action)})
	}
	return object(head, r.Target, r.Query, r.Body)
}

// size returns an upper bound of both forms' size, but for the constant parts.
func (r Request) size() (n int) {
	for _, list := range [][]Field{r.Target, r.Query, r.Body} {
		for _, f := range list {
			n += len(f.Name) + len(f.Value) + 4
		}
	}
	return n
}

// object writes a JSON object. encoding/json would change the bytes of raw values.
func object(lists ...[]Field) []byte {
	text := []byte{'{'}
	for _, list := range lists {
		for _, f := range list {
			if len(text) > 1 {
				text = append(text, ',')
			}
			text = append(append(append(text, quote(f.Name)...), ':'), f.Value...)
		}
	}
	return append(text, '}')
}

func quote(s string) json.RawMessage {
	text, _ := encodeValue("", s) // a string always has a form in JSON
	return text
}

// fields collects the fields of a request, and the first fault of one.
type fields struct {
	list []Field
	err  error
}

func (f *fields) add(name string, value json.RawMessage) { f.list = append(f.list, Field{name, value}) }

func (f *fields) fail(err error) {
	if f.err == nil {
		f.err = err
	}
}

// text adds a text. Invalid UTF-8 is an error, because JSON would change it.
func (f *fields) text(name, s string) {
	if !utf8.ValidString(s) {
		f.fail(&Error{Code: CodeInvalidUTF8, Field: name, Detail: name + " must be valid UTF-8."})
	}
	f.add(name, quote(s))
}

// optional adds a text unless it is empty.
func (f *fields) optional(name, s string) {
	if s != "" {
		f.text(name, s)
	}
}

func (f *fields) number(name string, n int64) {
	f.add(name, json.RawMessage(strconv.FormatInt(n, 10)))
}

func (f *fields) flag(name string, b bool) { f.add(name, json.RawMessage(strconv.FormatBool(b))) }

func (f *fields) value(name string, v any) {
	raw, err := encodeValue(name, v)
	if err != nil {
		f.fail(err)
	}
	f.add(name, raw)
}

// time adds a time unless it is zero.
func (f *fields) time(name string, t time.Time) {
	if !t.IsZero() {
		f.add(name, quote(t.UTC().Format(time.RFC3339Nano)))
	}
}

// units adds a duration as a number of units, rounded up.
func (f *fields) units(name string, d, unit time.Duration) {
	n := int64(d / unit)
	if d > 0 && d%unit != 0 {
		n++
	}
	f.number(name, n)
}

// join returns the first error that is not nil.
func join(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
