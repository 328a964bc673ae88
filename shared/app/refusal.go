package app

import (
	"context"
	"log/slog"
	"time"

	"github.com/aws/aws-lambda-go/lambdacontext"
	"github.com/google/uuid"

	"github.com/flovyn/promises/shared/promise"
	"github.com/flovyn/promises/shared/webhook"
)

// The limits of what a process records about the requests to sources.
const (
	maxTouched    = 2 * webhook.CacheSize
	maxRefused    = 2 * webhook.CacheSize
	touchInterval = time.Minute
	logInterval   = time.Minute
)

// A touch is a kind of time that TouchSource records.
type touch struct {
	tenant, name string
	verified     uuid.UUID // the source's id; uuid.Nil: it was refused
}

// touch records that the source with an id has verified a request, or refused it, at most
// once a minute for each of the two. A source that does not exist costs the same
// statement. If it fails, the next request tries again.
func (w *webhooks) touch(ctx context.Context, tenant, name string, id uuid.UUID, refused error) {
	at := promise.SourceTouch{ID: id}
	if refused != nil {
		at = promise.SourceTouch{Refusal: refused.Error()}
	}
	t, now := touch{tenant, name, at.ID}, time.Now().Round(0)
	if !w.isDue(t, now) {
		return
	}
	if err := w.store.TouchSource(ctx, tenant, name, at); err != nil {
		w.log.WarnContext(ctx, "cannot record when a source was last used", "cause", err.Error())
		w.mu.Lock()
		delete(w.touched, t)
		w.mu.Unlock()
	}
}

// isDue reports whether this process has not recorded t within touchInterval, and notes
// that it does now.
func (w *webhooks) isDue(t touch, now time.Time) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if age := now.Sub(w.touched[t]); age >= 0 && age < touchInterval {
		return false
	}
	if len(w.touched) >= maxTouched {
		clear(w.touched)
	}
	w.touched[t] = now
	return true
}

// A refusal is a kind of refused requests that has log lines of its own. That of a wrong
// checksum has no tenant and no name, because outsiders invent them.
type refusal struct{ tenant, name, reason string }

// An unlogged counts the refusals since a log line.
type unlogged struct {
	since time.Time
	count int
}

// logRefusal logs a refused request, at most once a minute for each kind, so that a
// flood writes little. The line has the number of refusals since the one before.
func (w *webhooks) logRefusal(ctx context.Context, kind refusal) {
	count, due := w.countRefusal(kind, time.Now().Round(0))
	if !due {
		return
	}
	attrs := []slog.Attr{slog.String("operation", "receive-webhook"), slog.String("cause", kind.reason), slog.Int("refusals", count)}
	if kind.name != "" {
		attrs = append(attrs, slog.String("tenant", kind.tenant), slog.String("source", kind.name))
	}
	if lc, ok := lambdacontext.FromContext(ctx); ok {
		attrs = append(attrs, slog.String("requestId", lc.AwsRequestID))
	}
	w.log.LogAttrs(ctx, slog.LevelInfo, "webhook refused", attrs...)
}

// countRefusal counts a refusal. If a line is due, it returns the number that the line
// has, and begins to count anew.
func (w *webhooks) countRefusal(kind refusal, now time.Time) (count int, due bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	u, known := w.refused[kind]
	if !known && len(w.refused) >= maxRefused {
		clear(w.refused)
	}
	u.count++
	if age := now.Sub(u.since); age < 0 || age >= logInterval {
		w.refused[kind] = unlogged{since: now}
		return u.count, true
	}
	w.refused[kind] = u
	return 0, false
}
