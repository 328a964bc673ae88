package promise

import "time"

const (
	// MaxTimeout is how far ahead a deadline may lie: ten years.
	MaxTimeout = 3652 * 24 * time.Hour

	// DefaultIdempotencyKeyTTL is how long an idempotency key lives at least.
	DefaultIdempotencyKeyTTL = 24 * time.Hour

	// MaxIdempotencyKeyTTL is the longest time to live that can be asked for.
	MaxIdempotencyKeyTTL = MaxTimeout

	// IdempotencyKeyGrace is how long after its promise's settlement an expired idempotency
	// key still names the promise, because webhook senders repeat for days.
	IdempotencyKeyGrace = 7 * 24 * time.Hour

	// MaxEarlyTTL is the longest that a settlement can be held for its promise.
	MaxEarlyTTL = 7 * 24 * time.Hour
)

// MaxMetadataBytes is the limit of a metadata, as JSON text with its numbers
// written out.
const MaxMetadataBytes = 64 << 10

// CheckTimeoutAt fails with CodeOutOfRange if the deadline lies more than
// MaxTimeout after now, or before the year 1, which RFC 3339 cannot tell. Any
// other in the past is good: its promise is born timed out.
func CheckTimeoutAt(at, now time.Time) error {
	if at.UTC().Year() < 1 {
		return Fail(CodeOutOfRange, "A deadline may not lie before the year 1.")
	}
	if at.After(now.Add(MaxTimeout)) {
		return Fail(CodeOutOfRange, "A deadline may lie at most ten years ahead.")
	}
	return nil
}
