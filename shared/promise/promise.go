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
	Name                string
	State               State
	Value               []byte  // the JSON text it was resolved with, byte for byte; nil unless Resolved
	Error               *string // nil unless Rejected
	Metadata            []byte  // a JSON object, or nil
	IdempotencyKey      *string // the key it was created with, which may have passed on since
	TimeoutAt           *time.Time
	CreatedAt           time.Time
	ResolvedAt          *time.Time // when it left Pending; the deadline itself if TimedOut
	CreatedBySequence   int32
	ResolvedBySequence  *int32 // nil while no event tells of the settlement
}

// Draft is a promise that is still to be created.
type Draft struct {
	WorkflowExecutionID uuid.UUID
	Name                string
	IdempotencyKey      *string
	IdempotencyKeyTTL   time.Duration  // counts from the creation; used only with a key
	Timeout             *time.Duration // counts from the creation by the database's clock; not with TimeoutAt
	TimeoutAt           *time.Time
	Metadata            []byte // a JSON object, or nil
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
)

// Settled answers a settle call: the stored truth, and what this call did.
type Settled struct {
	PromiseID uuid.UUID
	State     State
	Outcome   Outcome
}

// Judge is the state of a promise at a moment, by the settlement that is stored
// for it (nil while there is none) and its deadline.
func Judge(stored *State, timeoutAt *time.Time, now time.Time) State {
	switch {
	case stored != nil:
		return *stored
	case timeoutAt != nil && !timeoutAt.After(now):
		return TimedOut
	default:
		return Pending
	}
}

// Late is the outcome of a settle call that found the promise in a final state.
// same says whether the stored settlement is the call's own, byte for byte.
func Late(stored State, same bool) Outcome {
	switch {
	case stored == TimedOut:
		return OutcomeTimedOut
	case stored == Cancelled:
		return OutcomeCancelled
	case same:
		return OutcomeDuplicate
	default:
		return OutcomeConflict
	}
}
