// Package promise is the domain: the types of a promise and its settlement, the
// rules that decide, and every error that a call can return. It imports no
// adapter.
//
// A promise is pending until one of four events settles it. The settled state
// never changes:
//
//	pending --resolve--> resolved
//	        --reject---> rejected
//	        --cancel---> cancelled
//	        --deadline-> timed_out
package promise

import (
	"bytes"
	"time"

	"github.com/google/uuid"
)

// A State is the state of a promise. Every state but Pending is final.
type State string

// The states.
const (
	Pending   State = "pending"
	Resolved  State = "resolved"
	Rejected  State = "rejected"
	Cancelled State = "cancelled"
	TimedOut  State = "timed_out"
)

// A Promise is a promise as the database judged it at the moment of reading. From
// its deadline on, a pending promise reads as settled by the deadline, even if
// no sweep has recorded that yet.
type Promise struct {
	ID                  uuid.UUID
	WorkflowExecutionID uuid.UUID
	ExternalID          *string // the text that WorkflowExecutionID was derived from, or nil
	Name                string
	State               State
	Value               []byte  // the JSON text that resolved it, byte for byte; nil unless Resolved
	Message             *string // the error of a Rejected promise, or the reason (or nil) of a Cancelled one
	Metadata            []byte  // a JSON object, or nil
	IdempotencyKey      *string // the key of its creation; another promise may have taken it over since
	TimeoutAt           *time.Time
	OnTimeout           *Result // the default outcome, which the deadline settles it with; nil: TimedOut
	CreatedAt           time.Time
	ResolvedAt          *time.Time // the time of the settlement; the deadline, if the deadline settled it
	SettledBy           *By        // nil while Pending, and for settlements from before it was recorded
	Comment             *string    // the settler's comment, or nil
	CreatedBySequence   int32
	ResolvedBySequence  *int32 // nil until the event of the settlement is written

	// ErasedAt is the time at which the promise's contents were erased, or nil. In
	// any State, an erased promise has no Value, Message, Metadata, OnTimeout and
	// Comment.
	ErasedAt *time.Time

	// Deliveries lists the deliveries to the promise's targets, in their order. Only a
	// single read has them.
	Deliveries []Delivery
}

// A Result is a final state with its value or message.
type Result struct {
	State   State
	Value   []byte  // a JSON text; set if Resolved, and only then
	Message *string // the error if Rejected; the reason, or nil, if Cancelled
}

// Same reports whether two results are equal, byte for byte.
func (r Result) Same(other Result) bool {
	return r.State == other.State && bytes.Equal(r.Value, other.Value) &&
		(r.Message == nil) == (other.Message == nil) && (r.Message == nil || *r.Message == *other.Message)
}

// A SettleRequest is a request to settle a promise.
type SettleRequest struct {
	Result  // Resolved, Rejected or Cancelled
	By      By
	Comment *string // 1 to MaxCommentLength characters, or nil
}

// A Draft describes a promise to create.
type Draft struct {
	WorkflowExecutionID uuid.UUID
	ExternalID          *string // the text that WorkflowExecutionID was derived from, or nil
	Name                string
	IdempotencyKey      *string
	IdempotencyKeyTTL   time.Duration  // counts from the creation; used only with a key
	Timeout             *time.Duration // counts from the creation by the database's clock; not with TimeoutAt
	TimeoutAt           *time.Time
	OnTimeout           *Result // the default outcome, Resolved or Rejected; nil: TimedOut
	Metadata            []byte  // a JSON object, or nil

	// Notify lists the targets, at most MaxTargets. nil: the tenant's default destination,
	// if it has one. Empty and not nil: no target.
	Notify []Target
}

// A CreateResult is the result of a create call.
type CreateResult struct {
	Promise Promise
	New     bool // false: an earlier call created it

	// EarlyExpired reports that an early settlement under the key was discarded,
	// because it had expired or had arrived after the promise's deadline.
	EarlyExpired bool

	TokensRevokedAt *time.Time // the last revocation of the promise's tokens; nil: never
}

// TokensRevoked is the result of a revocation of a promise's tokens.
type TokensRevoked struct {
	PromiseID uuid.UUID
	At        time.Time
}

// An Outcome names the effect of one settle call.
type Outcome string

// The outcomes.
const (
	OutcomeSettled   Outcome = "settled"   // this call settled the promise
	OutcomeDuplicate Outcome = "duplicate" // an earlier call had settled it, with the same state and the same bytes
	OutcomeConflict  Outcome = "conflict"  // an earlier call had settled it otherwise
	OutcomeTimedOut  Outcome = "timed_out" // its deadline had passed
	OutcomeCancelled Outcome = "cancelled" // its workflow had cancelled it
	OutcomeHeld      Outcome = "held"      // no promise has the key yet; the early settlement is stored for it
)

// A SettleResult is the result of a settle call: the stored state, and the
// effect of this call.
//
// If the call stored or met an early settlement, EarlyExpiresAt is set and
// PromiseID is not.
type SettleResult struct {
	PromiseID uuid.UUID // uuid.Nil with an early settlement
	State     State
	Outcome   Outcome

	EarlyExpiresAt *time.Time // the stored early settlement expires then; nil: there is none
	EarlyKey       Identifier // the idempotency key of the early settlement; set by the caller of a Store, not by the Store
	EarlyExpired   bool       // the call replaced an early settlement that had expired
}

// An Item is one settlement of a batch.
type Item struct {
	Promise Identifier
	Result  Result // Resolved or Rejected
	Comment *string
}

// An ItemResult is the result of one item of a batch: SettleResult, or Err.
type ItemResult struct {
	SettleResult SettleResult
	Err          error
}

// An Event is one entry of a workflow execution's event log.
type Event struct {
	SequenceNumber int32
	Type           EventType
	PromiseID      uuid.UUID
	PromiseName    string
	CreatedAt      time.Time
	TimeoutAt      *time.Time // EventExtended: the new deadline

	// Settlement is the settlement that the event records; nil for EventCreated and
	// EventExtended.
	Settlement *SettleRequest

	ErasedAt *time.Time // the time at which the settled promise's contents were erased, or nil
}

// An EventType names the change that an event records.
type EventType string

// The types of event.
const (
	EventCreated   EventType = "PROMISE_CREATED"
	EventResolved  EventType = "PROMISE_RESOLVED"
	EventRejected  EventType = "PROMISE_REJECTED"
	EventCancelled EventType = "PROMISE_CANCELLED"
	EventTimeout   EventType = "PROMISE_TIMEOUT" // the deadline settled it, with TimedOut or the default outcome
	EventExtended  EventType = "PROMISE_EXTENDED"
)

// A Deadline is a deadline as a caller gives it. Exactly one field is set.
type Deadline struct {
	Timeout *time.Duration // counts from the call, by the database's clock
	At      *time.Time
}

// A Filter chooses among a tenant's promises. A nil field matches every promise.
// Check lists the valid combinations.
type Filter struct {
	WorkflowExecutionID *uuid.UUID
	Name                *string
	State               *State
	TimeoutBefore       *time.Time
	After               *Cursor // the end of the previous page
}
