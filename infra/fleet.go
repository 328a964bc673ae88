package main

import (
	"fmt"

	"github.com/flovyn/promises/shared/database"
	"github.com/flovyn/promises/shared/routes"
)

// concurrency is the number of processes that Lambda reserves for each function in a
// large stage. Above it a call fails with 429 from the SDK and 503 over HTTP, and the
// other functions lose no capacity. The calls of routes.Waiting last for seconds, so
// those two functions have most of the processes. Waits never block a read or a
// settlement, and neither do tests of destinations or sends.
//
// Small stages reserve nothing: a new account may have only 10 executions at once, and
// Lambda lets none of those be reserved.
var concurrency = map[string]int{
	"authorize":           60,
	"batch-resolve":       10,
	"cancel-promise":      10,
	"create-promise":      50,
	"delete-promise":      5,
	"expire-promises":     3, // two runs overlap, and a run of the previous release may still be there
	"extend-promise":      10,
	"get-promise":         40,
	"list-deliveries":     8,
	"list-events":         20,
	"list-promises":       10,
	"list-receipts":       6,
	"manage-integrations": 15, // a test waits up to 25 s for the receiver
	"manage-tenants":      2,
	"migrate":             1,
	"receive-webhook":     30, // strangers send to it, and a flood of theirs takes no other function's processes
	"reject":              20,
	"relay-deliveries":    4, // three runs overlap, and a run of the previous release may still be there
	"resolve":             45,
	"resolve-by-id":       30,
	"resolve-by-key":      30,
	"retry-deliveries":    4,
	"revoke-tokens":       5,
	"send-deliveries":     100, // up to 30 s each; three runs of the relay make up to 96 calls at once
	"settle-callback":     20,
	"wait-events":         90,  // up to 25 s each
	"wait-promise":        150, // up to 25 s each
}

const (
	// headroom is the number of processes kept for the functions of future releases.
	// The fleet leaves executions and connections for them.
	headroom = 24

	// accountConcurrency is an account's usual quota of concurrent executions.
	// unreservedConcurrency is the part of it that Lambda does not let functions reserve.
	accountConcurrency    = 1000
	unreservedConcurrency = 100
)

// maxWaits returns MAX_WAITS: the number of calls of one tenant that may wait at once,
// over all processes. A small stage reserves nothing, so its waits take executions from
// all other calls. A new account has 10.
func maxWaits(s settings) int {
	if s.Large {
		return 20
	}
	return 5
}

// maxSends returns MAX_SENDS: the number of calls of send-deliveries that one relay has
// under way at once. Three relays may overlap. In a small stage they take executions from
// all other calls.
func maxSends(s settings) int {
	if s.Large {
		return 32
	}
	return 4
}

// maxConnections returns max_connections of Postgres. A busy connection costs about
// 10 MiB; a large stage has 16 GiB of memory, a small one 4 GiB.
func maxConnections(s settings) int {
	if s.Large {
		return 1600
	}
	return 300
}

// proxyPercent is the share of maxConnections for RDS Proxy. The rest is for migrate,
// operators and RDS itself.
const proxyPercent = 90

// proxyConnections returns the most connections that the proxy opens to Postgres.
func proxyConnections(s settings) int { return maxConnections(s) * proxyPercent / 100 }

// fleetConnections returns the most connections that the functions of a large stage
// open to the proxy: the sum over all functions of concurrency x pool size.
func fleetConnections() (n int) {
	for _, f := range routes.Functions {
		n += concurrency[f.Name] * poolSize(f)
	}
	return n
}

// poolSize returns the most connections that one process of the function opens to the
// proxy. migrate connects to Postgres directly, and send-deliveries to no database.
func poolSize(f routes.Function) int {
	switch {
	case f.Role == "":
		return 0
	case f.Name == "expire-promises":
		return database.SweepPoolSize
	case f.Name == "relay-deliveries":
		return database.RelayPoolSize
	default:
		return database.PoolSize
	}
}

// fleetConcurrency returns the sum of the executions that a large stage reserves.
func fleetConcurrency() (n int) {
	for _, f := range routes.Functions {
		n += concurrency[f.Name]
	}
	return n
}

// checkFleet returns an error if a function has no entry in concurrency. For a large
// stage it also returns one if the functions, with headroom more processes, could open
// more connections than the proxy has, or would reserve more executions than Lambda
// allows. Within these limits no call waits for a connection, even if all are pinned.
func checkFleet(s settings) error {
	for _, f := range routes.Functions {
		if concurrency[f.Name] == 0 {
			return fmt.Errorf("fleet.go: concurrency has no entry for %s: add how many of its processes may run at once", f.Name)
		}
	}
	if !s.Large {
		return nil
	}
	if want, have := fleetConnections()+headroom*database.PoolSize, proxyConnections(s); want > have {
		return fmt.Errorf("fleet.go: with headroom, the functions can open %d connections, but RDS Proxy has only %d: lower concurrency or raise maxConnections", want, have)
	}
	if want := fleetConcurrency() + headroom; want > accountConcurrency-unreservedConcurrency {
		return fmt.Errorf("fleet.go: with headroom, the functions reserve %d executions, but Lambda allows only %d: lower concurrency", want, accountConcurrency-unreservedConcurrency)
	}
	return nil
}
