package app

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A line is due at the first refusal of a kind, and a minute after the last line. It counts those between.
func TestCountRefusal(t *testing.T) {
	t.Parallel()
	w := &webhooks{refused: map[refusal]unlogged{}}
	kind, now := refusal{"demo", "github", "no signature matches"}, time.Now()
	for _, step := range []struct {
		after time.Duration
		count int
	}{{0, 1}, {0, 0}, {logInterval - 1, 0}, {1, 3}, {logInterval, 1}, {-time.Hour, 1}} {
		now = now.Add(step.after)
		count, due := w.countRefusal(kind, now)
		require.Equal(t, step.count, count, "%+v", step)
		require.Equal(t, step.count > 0, due)
		if step.count == 3 {
			_, due = w.countRefusal(refusal{"demo", "stripe", "no signature matches"}, now)
			require.True(t, due, "another kind has lines of its own")
		}
	}
	for i := range 3 * maxRefused {
		w.countRefusal(refusal{"demo", fmt.Sprint(i), ""}, now)
		require.LessOrEqual(t, len(w.refused), maxRefused)
	}
}
