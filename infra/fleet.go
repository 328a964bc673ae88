package main

import (
	"fmt"

	"github.com/flovyn/promises/shared/database"
	"github.com/flovyn/promises/shared/routes"
)

// How many processes of each function may run at once in a large stage. A
// function that is called more often than that answers 429 to the SDK, 503 over
// HTTP, and takes nothing from the others. Only the calls of routes.Waiting last
// for seconds, so those two functions have most of the processes, and no wait
// keeps a read or a settlement out.
//
// Small stages reserve nothing: a new account may have 10 in all, of which
// none can be reserved.
var concurrency = map[string]int{
	"authorize":       60,
	"batch-resolve":   10,
	"cancel-promise":  10,
	"create-promise":  50,
	"delete-promise":  5,
	"expire-promises": 3, // two overlap; one may have been left over from a deployment
	"extend-promise":  10,
	"get-promise":     40,
	"list-events":     20,
	"list-promises":   10,
	"manage-tenants":  2,
	"migrate":         1,
	"reject":          20,
	"resolve":         45,
	"resolve-by-id":   30,
	"resolve-by-key":  30,
	"revoke-tokens":   5,
	"settle-callback": 20,
	"wait-events":     90,  // up to 25 s each
	"wait-promise":    150, // up to 25 s each
}

const (
	// keptFree is how many processes the functions of the next releases may have,
	// in all. The fleet leaves room for them and for their connections.
	keptFree = 80

	// accountConcurrency is how many executions an account may have at once to
	// begin with, and unreserved how many of them Lambda lets no function reserve.
	accountConcurrency = 1000
	unreserved         = 100
)

// maxWaits is how many calls of one tenant may wait at once (MAX_WAITS), over
// all processes. A small stage reserves nothing: its waits take the account's
// concurrency, which is 10 in a new account, from all other calls.
func maxWaits(s settings) int {
	if s.Large {
		return 20
	}
	return 5
}

// maxConnections is Postgres's own limit, max_connections. Each connection costs
// about 10 MiB when it is in use: a large stage has 16 GiB, a small one 4.
func maxConnections(s settings) int {
	if s.Large {
		return 1600
	}
	return 300
}

// proxyPercent of maxConnections are for RDS Proxy; the rest for migrate, for
// operators and for RDS itself.
const proxyPercent = 90

// proxyConnections is how many connections to Postgres the proxy opens at most.
func proxyConnections(s settings) int { return maxConnections(s) * proxyPercent / 100 }

// fleetConnections is how many connections to the proxy the functions of a
// large stage can open at most: functions x concurrency x pool size.
func fleetConnections() (n int) {
	for _, f := range routes.Functions {
		if f.Name != "migrate" { // which goes past the proxy
			n += concurrency[f.Name] * poolSize(f.Name)
		}
	}
	return n
}

// poolSize is how many connections one process of the function opens at most.
func poolSize(function string) int {
	if function == "expire-promises" {
		return database.SweepPoolSize
	}
	return database.PoolSize
}

// fleetConcurrency is how many executions the functions of a large stage reserve.
func fleetConcurrency() (n int) {
	for _, f := range routes.Functions {
		n += concurrency[f.Name]
	}
	return n
}

// checkFleet fails if the functions of a large stage, with keptFree more
// processes, could want more connections from the proxy than it can get from
// Postgres, each of them pinned: no call ever waits for one. It also fails if they
// reserve more executions than Lambda allows.
func checkFleet(s settings) error {
	for _, f := range routes.Functions {
		if concurrency[f.Name] == 0 {
			return fmt.Errorf("fleet.go: how many of %s may run at once?", f.Name)
		}
	}
	if !s.Large {
		return nil
	}
	if want, have := fleetConnections()+keptFree*database.PoolSize, proxyConnections(s); want > have {
		return fmt.Errorf("fleet.go: the functions can open %d connections, those to come included, RDS Proxy has %d", want, have)
	}
	if want := fleetConcurrency() + keptFree; want > accountConcurrency-unreserved {
		return fmt.Errorf("fleet.go: the functions reserve %d executions, those to come included, of %d", want, accountConcurrency-unreserved)
	}
	return nil
}
