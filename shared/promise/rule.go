package promise

import "time"

// The functions of this file are the service's rules. The database applies the
// same rules inside its statements; the repository's tests compare the two.

// Judge returns the state of a promise at a given time. stored is the state of
// the stored settlement, or nil; onTimeout is the default outcome, or nil.
func Judge(stored *State, timeoutAt *time.Time, onTimeout *Result, now time.Time) State {
	switch {
	case stored != nil:
		return *stored
	case timeoutAt == nil || timeoutAt.After(now):
		return Pending
	case onTimeout != nil:
		return onTimeout.State
	default:
		return TimedOut
	}
}

// OutcomeAgainst returns the outcome of a settle call that met an existing
// settlement. byDeadline: the deadline made that settlement. same: it equals the
// call's own, byte for byte. stored is Pending for an early settlement.
func OutcomeAgainst(stored State, byDeadline, same bool) Outcome {
	switch {
	case byDeadline || stored == TimedOut:
		return OutcomeTimedOut
	case same:
		return OutcomeDuplicate
	case stored == Cancelled:
		return OutcomeCancelled
	default:
		return OutcomeConflict
	}
}

// IdempotencyKeyIsLive reports whether an idempotency key belongs to its promise.
// No create may take over a live key. A key is live until it expires, and longer
// while its promise is pending.
func IdempotencyKeyIsLive(expiresAt time.Time, state State, now time.Time) bool {
	return expiresAt.After(now) || state == Pending
}

// IdempotencyKeyNamesPromise reports whether settle and read calls still find the
// promise by the key: while the key is live, and for IdempotencyKeyGrace after the
// settlement. In that grace period a create may already take the key over.
func IdempotencyKeyNamesPromise(expiresAt time.Time, state State, settledAt *time.Time, now time.Time) bool {
	return IdempotencyKeyIsLive(expiresAt, state, now) || settledAt != nil && settledAt.After(now.Add(-IdempotencyKeyGrace))
}

// EarlySettles reports whether an early settlement settles the promise that is
// created with its key now. It does if it has not expired, and if it arrived
// before the promise's deadline.
func EarlySettles(arrivedAt, expiresAt time.Time, timeoutAt *time.Time, now time.Time) bool {
	return expiresAt.After(now) && (timeoutAt == nil || timeoutAt.After(arrivedAt))
}

// EventTypeOf returns the type of the event that records a settlement by a call.
// A settlement by the deadline is EventTimeout.
func EventTypeOf(s State) EventType {
	switch s {
	case Resolved:
		return EventResolved
	case Rejected:
		return EventRejected
	default:
		return EventCancelled
	}
}
