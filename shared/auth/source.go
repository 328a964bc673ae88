package auth

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"
)

// KeySource gives the keys of this moment. Its error says that they could not be
// read now, not that there are none. It is safe for concurrent use.
type KeySource func(context.Context) (Keys, error)

// Source always gives these keys.
func (k Keys) Source() KeySource {
	return func(context.Context) (Keys, error) { return k, nil }
}

const (
	// KeysGoodFor is for how long keys that were read are used before they are
	// read again: so long after a change, no process has the old ones.
	KeysGoodFor = 5 * time.Minute

	// KeysServeOn is for how long keys that cannot be read again are used
	// nevertheless.
	KeysServeOn = time.Hour

	// keysRetry is how long after a failure they are read again.
	keysRetry = 5 * time.Second
)

// ReadKeys reads the keys by read, a value of TOKEN_KEYS, when they are first
// needed and again when they are KeysGoodFor old. While that fails, which the log is told, those of before
// serve on, for KeysServeOn; where there are none, it is an error. Nothing is asked more
// often than once in a few seconds.
func ReadKeys(read func(context.Context) (string, error), now func() time.Time, log *slog.Logger) KeySource {
	var mu sync.Mutex // one reads, the others wait for it
	var keys Keys
	var failure error
	var got, tried time.Time
	return func(ctx context.Context) (Keys, error) {
		mu.Lock()
		defer mu.Unlock()
		now := now().Round(0) // the monotonic clock may stand still while Lambda freezes the process
		if !got.IsZero() && now.Sub(got) < KeysGoodFor {
			return keys, nil
		}
		if failure == nil || now.Sub(tried) >= keysRetry {
			tried = now
			// What others wait for does not end with the call that began it.
			text, err := read(context.WithoutCancel(ctx))
			if err == nil {
				var parsed Keys
				if parsed, err = ParseKeys(text); err == nil {
					keys, got, failure = parsed, now, nil
					return keys, nil
				}
			}
			failure = errors.Join(errors.New("the signing keys cannot be read"), err)
			log.ErrorContext(ctx, "signing keys", "cause", failure.Error(), "serveOn", !got.IsZero())
		}
		if !got.IsZero() && now.Sub(got) < KeysServeOn {
			return keys, nil
		}
		return Keys{}, failure
	}
}
