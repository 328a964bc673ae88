package sweep

import (
	"context"
	"time"

	"github.com/google/uuid"

	"github.com/flovyn/promises/shared/promise"
)

const (
	// countPause is the shortest time between two counts of a tenant. A tenant
	// may exceed a limit for that long, and for as long as its count takes.
	countPause = 3 * time.Second

	// countRest and roundRest bound what counting costs: a tenant is not counted
	// again for countRest times the time that its own count took, and nothing is
	// counted for roundRest times the time that a round took. longestRest bounds the
	// first: early settlements come fast, also to a tenant with millions of promises.
	countRest, roundRest = 20, 2
	minRound             = time.Second
	longestRest          = 30 * time.Second

	countTenants = 100     // in one statement
	countRows    = 100_000 // in one statement, of all tenants
)

// counting is how the tenants of one Run are counted: the counting goroutine's.
type counting struct {
	work kind
	next map[uuid.UUID]time.Time // no count of the tenant before
}

// countInRounds counts what tenants have, again and again.
func (c *call) countInRounds() {
	for c.open.Err() == nil {
		begin := time.Now()
		c.countTenants(true)
		sleep(c.open, max(minRound, roundRest*time.Since(begin)))
	}
}

// countTenants counts what each tenant has that is due for it, and stores the
// counts. With rest it leaves room for others between two statements.
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
	for err == nil && len(due) > 0 && c.open.Err() == nil {
		n := min(countTenants, len(due))
		err = c.countSome(due[:n], rest)
		due = due[n:]
	}
}

// countSome counts some tenants until all are done.
func (c *call) countSome(tenants []promise.Count, rest bool) error {
	costs := map[uuid.UUID]time.Duration{}
	for len(tenants) > 0 && c.open.Err() == nil {
		before := rowsOf(tenants)
		begin := time.Now()
		err := c.try(&c.counts.work, func(ctx context.Context) error {
			return c.Store.CountMore(ctx, tenants, countRows/len(tenants))
		})
		took := time.Since(begin)
		if err != nil {
			return err
		}
		var total, open []promise.Count
		all := max(1, sum(rowsOf(tenants))-sum(before))
		for i, rows := range rowsOf(tenants) {
			t := tenants[i]
			costs[t.TenantID] += time.Duration(float64(took) * float64(rows-before[i]) / float64(all))
			if t.PendingDone && t.EarlyDone {
				total = append(total, t)
			} else {
				open = append(open, t)
			}
		}
		if err := c.storeCounts(total, costs); err != nil {
			return err
		}
		tenants = open
		if rest && len(open) > 0 {
			sleep(c.open, took)
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
			c.Log.Warn("quota", "tenant", f.Tenant, "pendingFull", f.PendingFull, "heldFull", f.EarlyFull)
		}
		for _, count := range counts {
			c.counts.next[count.TenantID] = time.Now().Add(max(countPause, min(countRest*costs[count.TenantID], longestRest)))
		}
		return err
	})
}

// rowsOf returns how many rows each count has come to.
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
