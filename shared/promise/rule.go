package promise

import "time"

// The rules below are the service's. The repository's statements decide by
// them inside the database; its tests hold the two together.

// Judge is the state of a promise at a moment, by the settlement that is stored
// for it (nil while there is none), its deadline, and what that brings.
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

// OutcomeAgainst is the outcome of a settle call that found the promise in a final state.
// byDeadline says that it was the deadline that settled it; same, that the
// stored settlement is the call's own, byte for byte.
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

// IdempotencyKeyIsLive reports whether an idempotency key belongs to its promise, so that no
// create may take it over: until the key expires and, in any case, for as long
// as the promise is pending.
func IdempotencyKeyIsLive(expiresAt time.Time, state State, now time.Time) bool {
	return expiresAt.After(now) || state == Pending
}

// IdempotencyKeyNamesPromise reports whether an idempotency key still names its promise in calls
// that settle or read it: while the key lives, and for IdempotencyKeyGrace after the
// settlement. A create may take over a key that does not live.
func IdempotencyKeyNamesPromise(expiresAt time.Time, state State, settledAt *time.Time, now time.Time) bool {
	return IdempotencyKeyIsLive(expiresAt, state, now) || settledAt != nil && settledAt.After(now.Add(-IdempotencyKeyGrace))
}

// EarlySettles says whether a settlement that was held settles the promise that
// is created with its key: while it is held, and if it came before the
// deadline.
func EarlySettles(heldAt, expiresAt time.Time, timeoutAt *time.Time, now time.Time) bool {
	return expiresAt.After(now) && (timeoutAt == nil || timeoutAt.After(heldAt))
}

// EventTypeOf is the type of the event that tells of a settlement by anybody but
// the deadline.
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
