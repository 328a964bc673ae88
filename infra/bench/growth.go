package main

import (
	"context"
	"fmt"
)

// sizes are databases, of so many promises with so many in each workflow.
var sizes = []struct{ promises, perWorkflow int }{
	{10_000, 10}, {100_000, 10}, {1_000_000, 10}, {5_000_000, 10},
	{100_000, 1}, {100_000, 1_000}, {100_000, 100_000},
}

// settlingInGrowth are how many operations are measured: the limit, by id and by key.
const settlingInGrowth = 3

// measureGrowth settles the same number of promises, spread over all there are, in each of the sizes that o does not rule
// out, at each number of clients. The databases are there at the same time and take turns, because the machine's speed drifts.
func measureGrowth(ctx context.Context, c *cluster, o options, screen *progress) ([]row, error) {
	// Few calls that are spread over many pages would show little else than that each page is logged whole once.
	if err := c.set(ctx, "full_page_writes = off"); err != nil {
		return nil, err
	}
	var databases []*loaded
	for _, size := range sizes {
		if size.promises > o.promises {
			continue
		}
		db, err := c.load(ctx, size.promises, size.perWorkflow, screen)
		if err != nil {
			return nil, err
		}
		databases = append(databases, db)
	}
	var rows []row
	for _, clients := range o.clients {
		calls := sizes[0].promises/(settlingInGrowth*len(o.clients)) - notCounted(clients)
		if calls < turns {
			return nil, fmt.Errorf("%d promises are too few for %d numbers of clients", sizes[0].promises, len(o.clients))
		}
		more, err := growthAt(ctx, databases, clients, screen, calls)
		if err != nil {
			return nil, err
		}
		rows = append(rows, more...)
	}
	return rows, nil
}

func growthAt(ctx context.Context, databases []*loaded, clients int, screen *progress, calls int) ([]row, error) {
	var operations []operation
	for _, db := range databases {
		of, done, err := direct(ctx, db, clients)
		if err != nil {
			return nil, err
		}
		defer done()
		operations = append(operations, of[:settlingInGrowth]...)
	}
	return inTurns(ctx, operations, clients, calls, screen)
}
