// Package client calls the promises service from Go.
//
// A workflow creates a promise and awaits it. An outside party resolves it, by its id or
// by an idempotency key that both know:
//
//	c, err := client.New("https://api.example.com", "acme", apiKey)
//	created, err := c.Create(ctx, client.Create{Workflow: client.WorkflowID("orders/7"), Name: "payment", Key: "order-7"})
//	payment, err := client.Await[Payment](ctx, c, created.Identifier)
//
// New returns a client of the HTTP API. Package invoke, beside this one, returns a client
// that invokes the functions in AWS Lambda directly. Both are a *Client, and both return
// the same results and the same errors.
//
// # Repetition
//
// A client repeats a call that failed for a while: no connection, no answer, 429, 500,
// 502, 503 or 504. It waits with exponential backoff and full jitter between two attempts,
// and at least for the service's Retry-After. It never sleeps past the deadline of the
// call's context, and makes at most Attempts attempts. Every call may be repeated, except
// a few that make a secret or send a message. Those say so, and are repeated only if the
// failed attempt certainly did nothing.
//
// So a settle call whose first answer was lost returns OutcomeDuplicate. That is a success:
// the promise has this very state and these very bytes.
package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"time"
)

// The default settings.
const (
	defaultAttempts = 5
	defaultFirst    = 200 * time.Millisecond
	defaultMost     = 5 * time.Second
)

const (
	// attemptTime bounds one attempt. API Gateway and the functions answer within 30 s.
	attemptTime = 35 * time.Second

	// maxRetryAfter is the longest Retry-After that a call waits for.
	maxRetryAfter = 30 * time.Second
)

// A Client calls the service for one tenant. It is safe for concurrent use. A value of
// the type is made by New, NewWithTransport or invoke.New.
type Client struct {
	tenant    string
	transport Transport
	settings
}

type settings struct {
	attempts    int
	first, most time.Duration
	http        *http.Client
}

// An Option changes a setting of a Client.
type Option func(*settings)

// Attempts sets the largest number of attempts of one call, 5 by default. 1 repeats
// nothing.
func Attempts(n int) Option { return func(s *settings) { s.attempts = max(n, 1) } }

// Backoff sets the pauses between two attempts. The n-th pause is a random time below
// first*2^(n-1), and below most. The defaults are 200 ms and 5 s.
func Backoff(first, most time.Duration) Option {
	return func(s *settings) { s.first, s.most = max(first, 1), max(most, first, 1) }
}

// HTTPClient sets the http.Client of New, for example one with another proxy or other
// certificates. New copies it, and the copy follows no redirect. Other constructors ignore
// this option.
func HTTPClient(c *http.Client) Option { return func(s *settings) { s.http = c } }

func newSettings(options []Option) settings {
	s := settings{attempts: defaultAttempts, first: defaultFirst, most: defaultMost}
	for _, set := range options {
		set(&s)
	}
	return s
}

// NewWithTransport returns a client of a tenant that sends its calls by a Transport.
func NewWithTransport(tenant string, t Transport, options ...Option) *Client {
	return &Client{tenant: tenant, transport: t, settings: newSettings(options)}
}

// call sends a request and decodes its answer into out, unless out is nil.
func (c *Client) call(ctx context.Context, r Request, out any) error {
	a, err := c.send(ctx, r)
	if err != nil {
		return err
	}
	return decode(r, a, out)
}

// decode decodes an answer into out, or only checks that it is JSON if out is nil. An
// answer without the fields that the service always sends is an error, so that the JSON of
// another server is no success.
func decode(r Request, a Answer, out any) error {
	if out == nil {
		out = new(any)
	}
	err := json.Unmarshal(a.Body, out)
	if v, ok := out.(interface{ valid() bool }); err == nil && (!ok || v.valid()) {
		return nil
	}
	return &Error{
		Op: r.op(), Status: a.Status, MaybeApplied: true, Err: err,
		Detail: "The answer cannot be read. Check that the base URL, or the prefix of the functions, names the promises service.",
	}
}

func (p *Promise) valid() bool      { return p.State != "" }
func (s *SettleResult) valid() bool { return s.Outcome != "" }
func (p *eventPage) valid() bool    { return p.Events != nil }
func (d *Destination) valid() bool  { return d.Name != "" }
func (s *Source) valid() bool       { return s.Name != "" }

// send sends a request until an attempt succeeds, fails for good, or was the last.
func (c *Client) send(ctx context.Context, r Request) (Answer, error) {
	a, _, err := c.sendCounted(ctx, r)
	return a, err
}

// sendCounted is send. It also reports whether an attempt before the last one may have
// been applied.
func (c *Client) sendCounted(ctx context.Context, r Request) (a Answer, lost bool, err error) {
	if r.err != nil {
		return Answer{}, false, r.err
	}
	for n := 0; ; n++ {
		a, e := c.attempt(ctx, r)
		if e == nil {
			return a, lost, nil
		}
		if n+1 >= c.attempts || !e.Temporary || r.Once && e.MaybeApplied || e.RetryAfter > maxRetryAfter || ctx.Err() != nil {
			e.MaybeApplied = e.MaybeApplied || lost && e.Temporary
			return Answer{}, lost, e
		}
		lost = lost || e.MaybeApplied
		if !sleep(ctx, e.RetryAfter+c.pause(n)) {
			e.MaybeApplied = lost
			return Answer{}, lost, e
		}
	}
}

// attempt sends a request once.
func (c *Client) attempt(ctx context.Context, r Request) (Answer, *Error) {
	r.Tenant = c.tenant
	bounded, stop := context.WithTimeout(ctx, attemptTime)
	defer stop()
	if size := r.size(); size > maxRequest {
		return Answer{}, &Error{
			Op: r.op(), Code: CodeValueTooLarge,
			Detail: fmt.Sprintf("The request has %d bytes, and Lambda takes about %d. Send less, or store the value elsewhere and send a reference.", size, maxRequest),
		}
	}
	a, err := c.transport.Send(bounded, r)
	if err == nil {
		return a, nil
	}
	e, ok := errors.AsType[*Error](err)
	if !ok {
		e = &Error{Detail: "The call failed.", MaybeApplied: true, Err: err}
	}
	e.Op = r.op()
	switch {
	case ctx.Err() != nil && e.Status == 0: // the caller's own end, and no fault of the service
		e.Code, e.Temporary, e.Detail, e.Err = "", false, "The context ended before the answer.", ctx.Err()
	case bounded.Err() != nil && e.Status == 0: // not the caller's deadline
		e.Err = fmt.Errorf("no answer within %v", attemptTime)
	}
	return Answer{}, e
}

// pause returns a random pause before attempt n+2 of a call.
func (c *Client) pause(n int) time.Duration { return rand.N(grow(c.first, c.most, n)) + 1 }

// grow returns first*2^n, at most most.
func grow(first, most time.Duration, n int) time.Duration {
	for range n {
		if first >= most/2 {
			return most
		}
		first *= 2
	}
	return min(first, most)
}

// sleep waits. It returns false, and at once if that is known, if ctx ends before.
func sleep(ctx context.Context, d time.Duration) bool {
	if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) <= d {
		return false
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// encodeValue encodes a value as JSON. A json.RawMessage stays as it is, byte for byte. No
// other value has its characters escaped for HTML, so that it has the same bytes as from
// clients in other languages.
func encodeValue(field string, v any) (json.RawMessage, error) {
	if raw, ok := v.(json.RawMessage); ok && raw != nil {
		if !json.Valid(raw) {
			return nil, &Error{Code: CodeMalformedJSON, Field: field, Detail: field + " is not one JSON value. Send valid JSON in a json.RawMessage."}
		}
		return raw, nil
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, &Error{Code: CodeMalformedJSON, Field: field, Detail: field + " cannot be encoded as JSON.", Err: err}
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}
