package main

import (
	"fmt"

	"github.com/flovyn/promises/shared/database"
	"github.com/flovyn/promises/shared/routes"
)

// How many processes of each function may run at once in a large stage. The sum
// leaves more than the 100 unreserved that Lambda insists on, of the 1,000 that
// an account has to begin with. A function that is called more often than that
// answers 429 to the SDK, 503 over HTTP, and takes nothing from the others: those that
// wait for a promise cannot keep out those that settle it.
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
	"get-promise":     100, // up to 25 s each
	"list-events":     60,  // up to 25 s each
	"list-promises":   10,
	"manage-tenants":  2,
	"migrate":         1,
	"reject":          20,
	"resolve":         45,
	"resolve-by-id":   30,
	"resolve-by-key":  30,
	"revoke-tokens":   5,
	"settle-callback": 20,
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
			n += concurrency[f.Name] * database.PoolSize
		}
	}
	return n
}

// checkFleet fails where the functions of a large stage could want more from the
// proxy than it can get from Postgres even if it had to keep each of their
// connections apart (pinned), so that no call ever stands in line for one.
func checkFleet(s settings) error {
	for _, f := range routes.Functions {
		if concurrency[f.Name] == 0 {
			return fmt.Errorf("fleet.go: how many of %s may run at once?", f.Name)
		}
	}
	if want, have := fleetConnections(), proxyConnections(s); s.Large && want > have {
		return fmt.Errorf("fleet.go: the functions can open %d connections, RDS Proxy has %d", want, have)
	}
	return nil
}
