package client

import (
	"context"
	"time"

	"github.com/google/uuid"
)

// A Create describes a promise to create. Workflow and Name are required. A name is unique
// in its workflow execution.
type Create struct {
	Workflow  Workflow
	Name      string        // 1 to 255 characters
	Key       string        // the idempotency key, 1 to 255 characters; empty: none
	KeyTTL    time.Duration // how long the key belongs to the promise at least; 0: a day
	Timeout   time.Duration // the deadline, counted from the creation by the service's clock; 0: none
	Deadline  time.Time     // the deadline, in place of Timeout; zero: none
	OnTimeout *OnTimeout    // what the deadline settles the promise with; nil: TimedOut
	Metadata  any           // encodes to a JSON object; nil: none
	Tokens    *Tokens       // asks for a token and for callback URLs; nil: none

	// Notify has at most 4 targets. nil: the tenant's default destination, if it has one.
	// Empty and not nil: no target.
	Notify []Target
}

// A Target is a waiter that is notified once a promise is settled. One field is set.
type Target struct {
	StepFunctions    *TaskTarget     `json:"stepFunctions,omitempty"`
	DurableExecution *CallbackTarget `json:"durableExecution,omitempty"`
	Destination      string          `json:"destination,omitempty"` // the name of a destination
}

// A TaskTarget is a task of Step Functions. Its token is a secret.
type TaskTarget struct {
	TaskToken   string `json:"taskToken"`
	Destination string `json:"destination,omitempty"` // empty: the service's own account and region
}

// A CallbackTarget is a callback of a Lambda durable function. Its id is a secret.
type CallbackTarget struct {
	CallbackID  string `json:"callbackId"`
	Destination string `json:"destination,omitempty"` // empty: the service's own account and region
}

// Tokens asks for a token that settles one promise, for a party that has no API key.
type Tokens struct {
	Verbs []string      // resolve, reject or both
	TTL   time.Duration // at most a year
	Raw   bool          // the whole body of a callback is the value, or the error
}

// A Created is the answer to a create.
type Created struct {
	Promise
	New        bool       `json:"created"`    // false: an earlier create made this promise
	Identifier Identifier `json:"identifier"` // by key while the key certainly names this promise, else by id

	Token      string `json:"token"`      // a secret, if Tokens asked for it
	ResolveURL string `json:"resolveUrl"` // a secret: it has the token
	RejectURL  string `json:"rejectUrl"`  // a secret: it has the token
}

// Create creates a promise, or returns the one that an equal create made before. It may be
// repeated; each create with Tokens returns a new token.
//
// The error has CodeKeyConflict if the key belongs to another promise, and
// CodeCreateConflict if the name belongs to a promise with another key, metadata, default
// outcome or targets. ExistingPromiseID is the other promise.
func (c *Client) Create(ctx context.Context, p Create) (Created, error) {
	var f fields
	p.Workflow.add(&f)
	f.text("name", p.Name)
	f.optional("idempotencyKey", p.Key)
	if p.KeyTTL != 0 {
		f.units("idempotencyKeyTtlSeconds", p.KeyTTL, time.Second)
	}
	if p.Timeout != 0 {
		f.units("timeoutMs", p.Timeout, time.Millisecond)
	}
	f.time("timeoutAt", p.Deadline)
	p.OnTimeout.add(&f)
	if p.Metadata != nil {
		f.value("metadata", p.Metadata)
	}
	if p.Tokens != nil {
		p.Tokens.add(&f)
	}
	if p.Notify != nil {
		f.value("notify", p.Notify)
	}
	var created Created
	err := c.call(ctx, Request{Function: "create-promise", Method: "POST", Path: "/promises", Body: f.list, err: f.err}, &created)
	return created, err
}

func (o *OnTimeout) add(f *fields) {
	if o == nil {
		return
	}
	outcome := fields{err: o.err}
	if o.Resolve != nil {
		outcome.value("resolve", o.Resolve)
	}
	if o.Reject != nil {
		outcome.text("reject", *o.Reject)
	}
	f.nested("onTimeout", outcome)
}

func (t *Tokens) add(f *fields) {
	var tokens fields
	tokens.value("verbs", t.Verbs)
	tokens.units("ttlSeconds", t.TTL, time.Second)
	if t.Raw {
		tokens.text("body", "raw")
	}
	f.nested("tokens", tokens)
}

// nested adds an object.
func (f *fields) nested(name string, inner fields) {
	if inner.err != nil {
		f.fail(inner.err)
	}
	f.add(name, object(inner.list))
}

// A NewDeadline is the deadline that Extend sets. One field is set.
type NewDeadline struct {
	After time.Duration // from now, by the service's clock
	At    time.Time
}

// Extend moves the deadline of a pending promise, later or sooner, or sets the first one.
// It may be repeated, and After then counts from the last attempt. If the promise is
// settled, the error has CodeConflict, CodeTimedOut or CodeCancelled, and Settled.
func (c *Client) Extend(ctx context.Context, id Identifier, deadline NewDeadline) (Promise, error) {
	f := fields{list: []Field{}} // a body in any case
	if deadline.After != 0 {
		f.units("timeoutMs", deadline.After, time.Millisecond)
	}
	f.time("timeoutAt", deadline.At)
	target, path, err := id.target()
	var p Promise
	err = c.call(ctx, Request{
		Function: "extend-promise", Method: "POST", Path: path + "/extend", Target: target, Body: f.list, err: join(err, f.err),
	}, &p)
	return p, err
}

// Delete erases the contents of a settled promise, for personal data. Its state, name and
// times stay, and are returned. It may be repeated. The error of a pending promise has
// CodeConflict: cancel it first.
func (c *Client) Delete(ctx context.Context, id Identifier) (Promise, error) {
	target, path, err := id.target()
	var p Promise
	err = c.call(ctx, Request{Function: "delete-promise", Method: "DELETE", Path: path, Target: target, err: err}, &p)
	return p, err
}

// RevokeTokens ends the tokens of a promise that were issued until now. It returns the
// promise's id and the time. It may be repeated, and then also ends the tokens that were
// issued in between.
func (c *Client) RevokeTokens(ctx context.Context, id Identifier) (promiseID uuid.UUID, at time.Time, err error) {
	target, path, err := id.target()
	var revoked struct {
		PromiseID       uuid.UUID
		TokensRevokedAt time.Time
	}
	err = c.call(ctx, Request{Function: "revoke-tokens", Method: "POST", Path: path + "/revoke-tokens", Target: target, err: err}, &revoked)
	return revoked.PromiseID, revoked.TokensRevokedAt, err
}
