package promise

import "time"

const (
	// MaxTimeout is how far ahead a deadline may lie: ten years.
	MaxTimeout = 3652 * 24 * time.Hour

	// DefaultKeyTTL is how long an idempotency key lives at least.
	DefaultKeyTTL = 24 * time.Hour

	// MaxKeyTTL is the longest time to live that can be asked for.
	MaxKeyTTL = MaxTimeout
)

// CheckTimeoutAt fails with CodeOutOfRange if the deadline lies more than
// MaxTimeout after now. One in the past is good: its promise is born timed out.
func CheckTimeoutAt(at, now time.Time) error {
	if at.After(now.Add(MaxTimeout)) {
		return Fail(CodeOutOfRange, "A deadline may lie at most ten years ahead.")
	}
	return nil
}
