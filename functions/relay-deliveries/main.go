// Command relay-deliveries is the scheduled Lambda that notifies the waiters of settled promises: it claims due deliveries, has
// send-deliveries send them, and records the results.
package main

import (
	"github.com/flovyn/promises/shared/app"
	"github.com/flovyn/promises/shared/delivery"
	"github.com/flovyn/promises/shared/delivery/invoke"
)

func main() {
	app.RunRelayDeliveries(func(function string) delivery.BatchSender { return invoke.New(function) })
}
