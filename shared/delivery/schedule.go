package delivery

import "time"

// delays are the times from a failed attempt to the next one: 10 delays, and so at
// most 11 attempts. They follow the recommendation of Standard Webhooks 1.0.0,
// "Deliverability and reliability": exponential, over several days, with jitter.
var delays = [...]time.Duration{
	5 * time.Second, 30 * time.Second, 2 * time.Minute, 10 * time.Minute,
	time.Hour, 3 * time.Hour, 6 * time.Hour, 12 * time.Hour, 24 * time.Hour, 24 * time.Hour,
}

// MaxRetryAfter is the longest wait that a destination can demand. A longer
// Retry-After counts as this.
const MaxRetryAfter = 24 * time.Hour

// RetryDelay returns the time from an attempt to the next one, and whether there is a
// next one.
//
// attempts counts the failed attempts before this result; a Throttled result is not
// among them. random is at least 0 and less than 1.
//
//   - Failed: the next delay of the schedule. After the last one again is false, and
//     the delivery is dead.
//   - Throttled: the first delay of the schedule, however many attempts failed.
//   - Delivered, Gone, Refused and Disabled: again is false.
//
// The delay is never shorter than the result's RetryAfter, of which MaxRetryAfter
// counts at most. Jitter lengthens the delay by up to a fifth, so that deliveries that
// failed together do not return together.
func RetryDelay(attempts int, result Result, random float64) (delay time.Duration, again bool) {
	switch result.Outcome {
	case Failed:
		if attempts >= len(delays) {
			return 0, false
		}
		delay = delays[attempts]
	case Throttled:
		delay = delays[0]
	default:
		return 0, false
	}
	delay = max(delay, min(result.RetryAfter, MaxRetryAfter))
	return delay + time.Duration(random*float64(delay)/5), true
}
