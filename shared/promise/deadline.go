package promise

import "time"

const (
	// MaxTimeout is the longest time from now to a deadline: ten years.
	MaxTimeout = 3652 * 24 * time.Hour

	// DefaultIdempotencyKeyTTL is the time to live of an idempotency key whose caller
	// asks for none.
	DefaultIdempotencyKeyTTL = 24 * time.Hour

	// MaxIdempotencyKeyTTL is the longest time to live of an idempotency key.
	MaxIdempotencyKeyTTL = MaxTimeout

	// IdempotencyKeyGrace is the time after its promise's settlement in which an
	// expired idempotency key still names the promise: webhook senders repeat for
	// days.
	IdempotencyKeyGrace = 7 * 24 * time.Hour

	// MaxEarlyTTL is the longest time to live of an early settlement.
	MaxEarlyTTL = 7 * 24 * time.Hour
)

// MaxMetadataBytes is the limit of a promise's metadata, as JSON text in which
// every number is written without an exponent.
const MaxMetadataBytes = 64 << 10

// CheckTimeoutAt fails with CodeOutOfRange if the deadline is more than MaxTimeout
// after now, or before the year 1, which RFC 3339 cannot write. Any other deadline
// in the past is valid: it settles its promise at once.
func CheckTimeoutAt(at, now time.Time) error {
	if at.UTC().Year() < 1 {
		return Fail(CodeOutOfRange, "A deadline must not be before the year 1.")
	}
	if at.After(now.Add(MaxTimeout)) {
		return Fail(CodeOutOfRange, "A deadline must be at most ten years ahead.")
	}
	return nil
}
