package sweep

import (
	"context"
	"slices"
	"time"

	"github.com/google/uuid"
)

// cleanUpInRounds repeats cleanUp until the run ends.
func (c *call) cleanUpInRounds() {
	for c.runCtx.Err() == nil {
		c.cleanUp(betweenBatches)
		sleep(c.runCtx, betweenRounds)
	}
}

// cleanUp deletes expired idempotency keys, old promises, destinations that nothing needs
// and expired receipts, and refreshes what the sources have. It does a batch of each kind
// in turn, until no kind has a full batch.
func (c *call) cleanUp(pause time.Duration) {
	keys, early, promises := c.report.KeysDeleted, c.report.EarlyExpired, c.report.PromisesDeleted
	more := []func() bool{c.expireKeys, c.deleteSettled, c.deleteDestinations, c.deleteReceipts, c.refreshHeld}
	for len(more) > 0 && c.runCtx.Err() == nil {
		more = slices.DeleteFunc(more, func(full func() bool) bool { return !full() })
		if len(more) > 0 {
			sleep(c.runCtx, pause)
		}
	}
	c.Metrics.Count(MetricKeysDeleted, int64(c.report.KeysDeleted-keys))
	c.Metrics.Count(MetricEarlyExpired, int64(c.report.EarlyExpired-early))
	c.Metrics.Count(MetricPromisesDeleted, int64(c.report.PromisesDeleted-promises))
	c.countSilent()
}

func (c *call) expireKeys() (full bool) {
	c.try(&c.keys, func(ctx context.Context) error { //nolint:errcheck // see try
		e, err := c.Store.ExpireIdempotencyKeys(ctx, deleteBatch)
		for _, expired := range e.ExpiredEarly {
			c.Log.Warn("held settlement expired unused", "tenant", expired.Tenant, "key", expired.Key)
		}
		c.report.KeysDeleted += e.Released
		c.report.EarlyExpired += len(e.ExpiredEarly)
		full = e.Examined >= deleteBatch
		return err
	})
	return full
}

func (c *call) deleteSettled() (full bool) {
	if c.Retention == 0 {
		return false
	}
	c.try(&c.settled, func(ctx context.Context) error { //nolint:errcheck // see try
		d, err := c.Store.DeleteSettled(ctx, c.Retention, deleteBatch)
		c.report.PromisesDeleted += d.Promises
		c.report.KeysDeleted += d.Keys
		c.report.EventsDeleted += d.Events
		c.report.WorkflowsDeleted += d.Workflows
		full = d.Promises >= deleteBatch
		return err
	})
	return full
}

func (c *call) deleteDestinations() (full bool) {
	c.try(&c.destinations, func(ctx context.Context) error { //nolint:errcheck // see try
		n, err := c.Store.DeleteDestinations(ctx, deleteBatch)
		full = n >= deleteBatch
		return err
	})
	return full
}

func (c *call) deleteReceipts() (full bool) {
	c.try(&c.receipts, func(ctx context.Context) error { //nolint:errcheck // see try
		n, err := c.Store.DeleteReceipts(ctx, deleteBatch)
		full = n >= deleteBatch
		return err
	})
	return full
}

// refreshHeld counts for some sources how many early settlements they have. The next call
// continues, and begins again after the last source.
func (c *call) refreshHeld() (full bool) {
	after := c.heldAfter
	c.heldAfter = uuid.Nil
	c.try(&c.held, func(ctx context.Context) error { //nolint:errcheck // see try
		h, err := c.Store.RefreshHeld(ctx, after, countTenants)
		if len(h.Reached)+len(h.Dropped) > 0 {
			c.Log.Warn("limit of a source's held settlements reached or left", "reached", h.Reached, "left", h.Dropped)
		}
		if full = h.Counted >= countTenants; full {
			c.heldAfter = h.Last
		}
		return err
	})
	return full
}

func (c *call) countSilent() {
	c.try(&c.silent, func(ctx context.Context) error { //nolint:errcheck // see try
		n, err := c.Store.SilentSources(ctx)
		if err == nil {
			c.Metrics.Gauge(MetricSourcesSilent, float64(n), "Count")
		}
		return err
	})
}
