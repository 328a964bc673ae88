package delivery_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/flovyn/promises/shared/delivery"
)

func TestRetryDelay(t *testing.T) {
	t.Parallel()
	const day = 24 * time.Hour
	failed := func(after time.Duration) delivery.Result {
		return delivery.Result{Outcome: delivery.Failed, RetryAfter: after}
	}
	for _, c := range []struct {
		name     string
		attempts int
		result   delivery.Result
		random   float64
		delay    time.Duration
		again    bool
	}{
		{"the first attempt fails", 0, failed(0), 0, 5 * time.Second, true},
		{"2", 1, failed(0), 0, 30 * time.Second, true},
		{"3", 2, failed(0), 0, 2 * time.Minute, true},
		{"4", 3, failed(0), 0, 10 * time.Minute, true},
		{"5", 4, failed(0), 0, time.Hour, true},
		{"6", 5, failed(0), 0, 3 * time.Hour, true},
		{"7", 6, failed(0), 0, 6 * time.Hour, true},
		{"8", 7, failed(0), 0, 12 * time.Hour, true},
		{"9", 8, failed(0), 0, day, true},
		{"10", 9, failed(0), 0, day, true},
		{"the last attempt fails", 10, failed(0), 0, 0, false},
		{"more attempts than the schedule has", 100, failed(0), 0.5, 0, false},
		{"jitter adds a tenth", 0, failed(0), 0.5, 5500 * time.Millisecond, true},
		{"Retry-After is longer", 0, failed(time.Minute), 0, time.Minute, true},
		{"Retry-After is shorter", 2, failed(time.Minute), 0, 2 * time.Minute, true},
		{"Retry-After is too long", 0, failed(365 * day), 0, day, true},
		{"Retry-After is negative", 0, failed(-time.Hour), 0, 5 * time.Second, true},
		{"Retry-After gives no attempt beyond the last one", 10, failed(time.Minute), 0, 0, false},
		{"throttled", 7, delivery.Result{Outcome: delivery.Throttled}, 0, 5 * time.Second, true},
		{"throttled after the last attempt", 10, delivery.Result{Outcome: delivery.Throttled}, 0, 5 * time.Second, true},
		{"throttled with Retry-After", 7, delivery.Result{Outcome: delivery.Throttled, RetryAfter: time.Hour}, 0, time.Hour, true},
		{"delivered", 0, delivery.Result{Outcome: delivery.Delivered}, 0, 0, false},
		{"gone", 0, delivery.Result{Outcome: delivery.Gone}, 0, 0, false},
		{"refused", 0, delivery.Result{Outcome: delivery.Refused}, 0, 0, false},
		{"disabled", 0, delivery.Result{Outcome: delivery.Disabled}, 0, 0, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			delay, again := delivery.RetryDelay(c.attempts, c.result, c.random)
			require.Equal(t, c.delay, delay)
			require.Equal(t, c.again, again)
		})
	}
}

// A delivery whose attempts fail or are throttled, in any order, ends after exactly 11 failures. Each delay lies between the schedule's or
// the destination's, whichever is longer, and a fifth more. Failures alone never shorten the delay.
func TestRetryDelayOfAnyHistory(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		attempts := 0
		for step := range 200 {
			result := delivery.Result{
				Outcome:    rapid.SampledFrom([]delivery.Outcome{delivery.Failed, delivery.Failed, delivery.Throttled}).Draw(t, "outcome"),
				RetryAfter: time.Duration(rapid.Int64().Draw(t, "after")),
			}
			random := rapid.Float64Range(0, 0.999999).Draw(t, "random")
			delay, again := delivery.RetryDelay(attempts, result, random)
			repeated, _ := delivery.RetryDelay(attempts, result, random)
			require.Equal(t, delay, repeated)

			if !again {
				require.Equal(t, delivery.Failed, result.Outcome)
				require.Equal(t, len(delivery.Delays()), attempts, "step %d", step)
				require.Zero(t, delay)
				return
			}
			least := delivery.Delays()[0]
			if result.Outcome == delivery.Failed {
				least = delivery.Delays()[attempts]
				attempts++
			}
			least = max(least, min(result.RetryAfter, delivery.MaxRetryAfter))
			require.GreaterOrEqual(t, delay, least)
			require.LessOrEqual(t, delay, least+least/5)
		}
	})
}

func TestDelaysNeverShorten(t *testing.T) {
	t.Parallel()
	delays := delivery.Delays()
	for i := range delays[1:] {
		require.GreaterOrEqual(t, delays[i+1], delays[i])
	}
}
