package sweep

import (
	"context"
	"time"

	"github.com/google/uuid"

	"github.com/flovyn/promises/shared/promise"
)

const (
	// countPause is the minimal time between two counts of a tenant. A tenant may
	// exceed a limit until its next count is stored.
	countPause = 3 * time.Second

	// countRest and roundRest limit the cost of counting. After a tenant's count,
	// the tenant rests for countRest times the count's duration, and at most for
	// longestRest, because early settlements can add up fast even for a tenant with
	// millions of promises. After a round, counting rests for roundRest times the
	// round's duration, and at least for minRound.
	countRest, roundRest = 20, 2
	minRound             = time.Second
	longestRest          = 30 * time.Second

	countTenants = 100     // per statement
	countRows    = 100_000 // per statement, over its tenants
)

// counting is the state of one call's counts. The counting goroutine alone uses it.
type counting struct {
	work work
	next map[uuid.UUID]time.Time // a tenant's earliest next count
}

// countInRounds repeats countTenants until the run ends.
func (c *call) countInRounds() {
	for c.runCtx.Err() == nil {
		begin := time.Now()
		c.countTenants(true)
		sleep(c.runCtx, max(minRound, roundRest*time.Since(begin)))
	}
}

// countTenants counts the rows of each tenant that is due for a count, and stores
// the counts. With rest, it pauses between statements.
func (c *call) countTenants(rest bool) {
	var due []promise.Count
	err := c.try(&c.counts.work, func(ctx context.Context) error {
		all, err := c.Store.Uncounted(ctx)
		for _, tenant := range all {
			if !c.counts.next[tenant.TenantID].After(time.Now()) {
				due = append(due, tenant)
			}
		}
		return err
	})
	for err == nil && len(due) > 0 && c.runCtx.Err() == nil {
		n := min(countTenants, len(due))
		err = c.countSome(due[:n], rest)
		due = due[n:]
	}
}

// countSome counts the given tenants until all counts are finished.
func (c *call) countSome(tenants []promise.Count, rest bool) error {
	costs := map[uuid.UUID]time.Duration{}
	for len(tenants) > 0 && c.runCtx.Err() == nil {
		before := rowsOf(tenants)
		begin := time.Now()
		err := c.try(&c.counts.work, func(ctx context.Context) error {
			return c.Store.CountMore(ctx, tenants, countRows/len(tenants))
		})
		took := time.Since(begin)
		if err != nil {
			return err
		}
		var done, unfinished []promise.Count
		all := max(1, sum(rowsOf(tenants))-sum(before))
		for i, rows := range rowsOf(tenants) {
			t := tenants[i]
			costs[t.TenantID] += time.Duration(float64(took) * float64(rows-before[i]) / float64(all))
			if t.PendingDone && t.EarlyDone {
				done = append(done, t)
			} else {
				unfinished = append(unfinished, t)
			}
		}
		if err := c.storeCounts(done, costs); err != nil {
			return err
		}
		tenants = unfinished
		if rest && len(unfinished) > 0 {
			sleep(c.runCtx, took)
		}
	}
	return nil
}

func (c *call) storeCounts(counts []promise.Count, costs map[uuid.UUID]time.Duration) error {
	if len(counts) == 0 {
		return nil
	}
	return c.try(&c.counts.work, func(ctx context.Context) error {
		changed, err := c.Store.StoreCounts(ctx, counts)
		for _, f := range changed {
			c.Log.Warn("tenant quota reached or left", "tenant", f.Tenant, "pendingFull", f.PendingFull, "heldFull", f.EarlyFull)
		}
		for _, count := range counts {
			c.counts.next[count.TenantID] = time.Now().Add(max(countPause, min(countRest*costs[count.TenantID], longestRest)))
		}
		return err
	})
}

// rowsOf returns the number of rows that each count has counted so far.
func rowsOf(counts []promise.Count) []int64 {
	rows := make([]int64, len(counts))
	for i, c := range counts {
		rows[i] = c.Pending + c.Early
	}
	return rows
}

func sum(numbers []int64) (total int64) {
	for _, n := range numbers {
		total += n
	}
	return total
}
