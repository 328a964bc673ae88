package main

import (
	"context"
	"fmt"
)

// sizes lists the databases: the number of promises, and of promises in each workflow.
var sizes = []struct{ promises, perWorkflow int }{
	{10_000, 10}, {100_000, 10}, {1_000_000, 10}, {5_000_000, 10},
	{100_000, 1}, {100_000, 1_000}, {100_000, 100_000},
}

// growthOperations is the number of operations that are measured: the limit, settle by id and settle by key.
const growthOperations = 3

// measureGrowth settles the same number of promises in each database, spread over the whole table, at each number of clients.
// It leaves out databases with more than o.promises. The databases exist at the same time and take turns, because the
// machine's speed drifts.
func measureGrowth(ctx context.Context, c *cluster, o options, screen *progress) ([]row, error) {
	// The calls are few and hit many pages. With full_page_writes their cost would be little else than logging each page whole.
	if err := c.set(ctx, "full_page_writes = off"); err != nil {
		return nil, err
	}
	var databases []*dataset
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
		calls := sizes[0].promises/(growthOperations*len(o.clients)) - uncountedCalls(clients)
		if calls < turns {
			return nil, fmt.Errorf("--clients: pass fewer or smaller numbers, because the %d promises of the smallest database are too few for these", sizes[0].promises)
		}
		more, err := growthAt(ctx, databases, clients, screen, calls)
		if err != nil {
			return nil, err
		}
		rows = append(rows, more...)
	}
	return rows, nil
}

func growthAt(ctx context.Context, databases []*dataset, clients int, screen *progress, calls int) ([]row, error) {
	var operations []operation
	for _, db := range databases {
		own, done, err := databaseOperations(ctx, db, clients)
		if err != nil {
			return nil, err
		}
		defer done()
		operations = append(operations, own[:growthOperations]...)
	}
	return inTurns(ctx, operations, clients, calls, screen)
}
