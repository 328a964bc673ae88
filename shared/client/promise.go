package client

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/google/uuid"
)

// A State is the state of a promise. Every state but Pending is final.
type State string

// The states.
const (
	Pending   State = "pending"
	Resolved  State = "resolved"  // Promise.Value
	Rejected  State = "rejected"  // Promise.Error
	Cancelled State = "cancelled" // Promise.Reason
	TimedOut  State = "timed_out"
)

// A Promise is a promise as the service showed it at one moment. Empty fields are absent.
type Promise struct {
	PromiseID           uuid.UUID       `json:"promiseId"`
	WorkflowExecutionID uuid.UUID       `json:"workflowExecutionId"`
	WorkflowID          string          `json:"workflowId"` // the engine's own id, if the create gave one
	Name                string          `json:"name"`
	State               State           `json:"state"`
	Value               json.RawMessage `json:"value"`       // Resolved: the JSON text byte for byte; see Value
	LegacyValue         []byte          `json:"valueBase64"` // a value from before this service that is not JSON
	Error               string          `json:"error"`       // Rejected
	Reason              string          `json:"reason"`      // Cancelled
	Metadata            json.RawMessage `json:"metadata"`
	IdempotencyKey      string          `json:"idempotencyKey"`
	TimeoutAt           time.Time       `json:"timeoutAt"`
	OnTimeout           *OnTimeout      `json:"onTimeout"` // Pending: what the deadline settles it with; nil: TimedOut
	CreatedAt           time.Time       `json:"createdAt"`
	ResolvedAt          time.Time       `json:"resolvedAt"` // the time of the settlement
	SettledBy           SettledBy       `json:"settledBy"`
	Comment             string          `json:"comment"`
	CreatedBySequence   int             `json:"createdBySequence"`
	ResolvedBySequence  int             `json:"resolvedBySequence"`
	ErasedAt            time.Time       `json:"erasedAt"`     // when its contents were erased
	ValueOmitted        bool            `json:"valueOmitted"` // in a message: the value is too large for it, or erased
	Deliveries          []Delivery      `json:"deliveries"`   // of Get and Await, if the promise has targets
}

// Identifier identifies the promise by its id.
func (p Promise) Identifier() Identifier { return ID(p.PromiseID) }

// A SettledBy names the caller that settled a promise.
type SettledBy struct {
	Kind string `json:"kind"` // key, token, webhook, direct or deadline
	ID   string `json:"id"`   // of the API key or the token; the name of the source
}

// An OnTimeout is the outcome that a deadline settles a promise with. One of the two is
// set. ResolveOnTimeout and RejectOnTimeout make one.
type OnTimeout struct {
	Resolve json.RawMessage `json:"resolve"`
	Reject  *string         `json:"reject"`

	err error // why Resolve could not be encoded
}

// ResolveOnTimeout returns the outcome of a deadline that resolves the promise with a value.
func ResolveOnTimeout(value any) *OnTimeout {
	raw, err := encodeValue("onTimeout.resolve", value)
	return &OnTimeout{Resolve: raw, err: err}
}

// RejectOnTimeout returns the outcome of a deadline that rejects the promise.
func RejectOnTimeout(message string) *OnTimeout { return &OnTimeout{Reject: &message} }

// Value decodes the value of a resolved promise into a T. T may be json.RawMessage, for the
// bytes as they are. If the promise is settled otherwise, the error is a *SettledError. It is
// ErrPending if the promise is pending, and ErrNoValue if its value is missing.
func Value[T any](p Promise) (T, error) {
	var v T
	switch {
	case p.State == Pending:
		return v, ErrPending
	case p.State != Resolved:
		return v, &SettledError{Promise: p}
	case p.LegacyValue != nil:
		return v, fmt.Errorf("promises: the value of %s is not JSON: read LegacyValue", p.PromiseID)
	case p.Value == nil:
		return v, ErrNoValue
	}
	if err := json.Unmarshal(p.Value, &v); err != nil {
		return v, fmt.Errorf("promises: the value of %s does not fit %T: %w", p.PromiseID, v, err)
	}
	return v, nil
}

// An EventType names the change that an event records.
type EventType string

// The types of event.
const (
	EventCreated   EventType = "PROMISE_CREATED"
	EventResolved  EventType = "PROMISE_RESOLVED"
	EventRejected  EventType = "PROMISE_REJECTED"
	EventCancelled EventType = "PROMISE_CANCELLED"
	EventTimeout   EventType = "PROMISE_TIMEOUT" // State is the outcome of the deadline
	EventExtended  EventType = "PROMISE_EXTENDED"
)

// An Event is one entry of the log of a workflow execution.
type Event struct {
	SequenceNumber int             `json:"sequenceNumber"` // without gaps, from 1
	EventType      EventType       `json:"eventType"`
	PromiseID      uuid.UUID       `json:"promiseId"`
	PromiseName    string          `json:"promiseName"`
	State          State           `json:"state"`
	Value          json.RawMessage `json:"value"`
	LegacyValue    []byte          `json:"valueBase64"`
	Error          string          `json:"error"`
	Reason         string          `json:"reason"`
	SettledBy      SettledBy       `json:"settledBy"`
	Comment        string          `json:"comment"`
	TimeoutAt      time.Time       `json:"timeoutAt"` // EventExtended: the new deadline
	CreatedAt      time.Time       `json:"createdAt"`
	ErasedAt       time.Time       `json:"erasedAt"`
}
