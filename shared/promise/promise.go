// Package promise is the domain: what a promise is, how it is named, how it is
// settled, and every way in which a call can fail. It knows no adapter.
//
// A promise is pending until one of four things happens to it, and that thing
// is then true for ever:
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

// State is where a promise stands. All but Pending are final.
type State string

// The states.
const (
	Pending   State = "pending"
	Resolved  State = "resolved"
	Rejected  State = "rejected"
	Cancelled State = "cancelled"
	TimedOut  State = "timed_out"
)

// Promise is one promise as the database judged it at the moment of reading: a
// promise past its deadline is TimedOut from that instant, whether or not
// anything has recorded it.
type Promise struct {
	ID                  uuid.UUID
	WorkflowExecutionID uuid.UUID
	ExternalID          *string // the text that WorkflowExecutionID was derived from, or nil
	Name                string
	State               State
	Value               []byte  // the JSON text it was resolved with, byte for byte; nil unless Resolved
	Message             *string // the text it was Rejected with, or the reason it was Cancelled for, if there was one
	Metadata            []byte  // a JSON object, or nil
	IdempotencyKey      *string // the key it was created with, which may have passed on since
	TimeoutAt           *time.Time
	OnTimeout           *Result // what the deadline brings, if not TimedOut
	CreatedAt           time.Time
	ResolvedAt          *time.Time // when it left Pending; the deadline itself if that is what settled it
	SettledBy           *By        // nil while Pending, and where nothing was recorded
	Comment             *string    // what whoever settled it had to say
	CreatedBySequence   int32
	ResolvedBySequence  *int32 // nil while no event tells of the settlement

	// ErasedAt is when the promise's contents were erased; nil: they were not. An erased promise has no
	// Value, Error, Metadata, OnTimeout and Comment, whatever its State.
	ErasedAt *time.Time
}

// Result is a final state and what it brings.
type Result struct {
	State   State
	Value   []byte  // a JSON text; only if Resolved, and then always
	Message *string // the error if Rejected, the reason (or nil) if Cancelled
}

// Same says whether two results are the same, byte for byte.
func (r Result) Same(other Result) bool {
	return r.State == other.State && bytes.Equal(r.Value, other.Value) &&
		(r.Message == nil) == (other.Message == nil) && (r.Message == nil || *r.Message == *other.Message)
}

// SettleRequest is what somebody settles a promise with.
type SettleRequest struct {
	Result  // Resolved, Rejected or Cancelled
	By      By
	Comment *string // 1 to MaxCommentLength characters, or nil
}

// Draft is a promise that is still to be created.
type Draft struct {
	WorkflowExecutionID uuid.UUID
	ExternalID          *string // the text that WorkflowExecutionID was derived from, or nil
	Name                string
	IdempotencyKey      *string
	IdempotencyKeyTTL   time.Duration  // counts from the creation; used only with a key
	Timeout             *time.Duration // counts from the creation by the database's clock; not with TimeoutAt
	TimeoutAt           *time.Time
	OnTimeout           *Result // Resolved or Rejected; nil: the deadline brings TimedOut
	Metadata            []byte  // a JSON object, or nil
}

// CreateResult answers a creation.
type CreateResult struct {
	Promise Promise
	New     bool // false: it had been created before

	// EarlyExpired says that the key held a settlement which did not settle the
	// promise, because its time was over or it came after the deadline. It is gone.
	EarlyExpired bool

	TokensRevokedAt *time.Time // when the promise's tokens were last revoked; nil: never
}

// TokensRevoked answers a revocation of a promise's tokens.
type TokensRevoked struct {
	PromiseID uuid.UUID
	At        time.Time
}

// Outcome is what one settle call did.
type Outcome string

// The outcomes.
const (
	OutcomeSettled   Outcome = "settled"   // this call settled it
	OutcomeDuplicate Outcome = "duplicate" // it had been settled with the same state and the same bytes
	OutcomeConflict  Outcome = "conflict"  // it had been settled otherwise
	OutcomeTimedOut  Outcome = "timed_out" // its deadline had passed
	OutcomeCancelled Outcome = "cancelled" // its workflow had cancelled it
	OutcomeHeld      Outcome = "held"      // there is none yet: the settlement waits for the promise to be created
)

// SettleResult answers a settle call: the stored truth, and what this call did.
type SettleResult struct {
	PromiseID uuid.UUID // uuid.Nil where the settlement is held, since there is no promise yet
	State     State
	Outcome   Outcome

	EarlyExpiresAt *time.Time // OutcomeHeld, and whatever the call did to a settlement that is held
	EarlyKey       Identifier // the key that EarlyExpiresAt is about; a Store leaves it to its caller, who named the key
	EarlyExpired   bool       // another settlement was held under the key, and its time was over: it is gone
}

// Item is one of the settlements of a batch.
type Item struct {
	Promise Identifier
	Result  Result // Resolved or Rejected
	Comment *string
}

// ItemResult is what became of one item of a batch: Settled, or Err.
type ItemResult struct {
	SettleResult SettleResult
	Err          error
}

// Event is one row of a workflow execution's log.
type Event struct {
	SequenceNumber int32
	Type           EventType
	PromiseID      uuid.UUID
	PromiseName    string
	CreatedAt      time.Time
	TimeoutAt      *time.Time // Extended: the deadline since then

	// What the event settled the promise with; nil where it settled nothing.
	Settlement *SettleRequest

	ErasedAt *time.Time // of an event that settled: when the promise's contents were erased
}

// EventType says what happened.
type EventType string

// The types of event.
const (
	EventCreated   EventType = "PROMISE_CREATED"
	EventResolved  EventType = "PROMISE_RESOLVED"
	EventRejected  EventType = "PROMISE_REJECTED"
	EventCancelled EventType = "PROMISE_CANCELLED"
	EventTimeout   EventType = "PROMISE_TIMEOUT" // the deadline settled it, whatever it brought
	EventExtended  EventType = "PROMISE_EXTENDED"
)

// Deadline is a deadline as a caller gives it: one of the two.
type Deadline struct {
	Timeout *time.Duration // counts from the call, by the database's clock
	At      *time.Time
}

// Filter chooses among a tenant's promises. What is nil does not matter. Check
// says which combinations there are.
type Filter struct {
	WorkflowExecutionID *uuid.UUID
	Name                *string
	State               *State
	TimeoutBefore       *time.Time
	After               *Cursor // where the page before ended
}
