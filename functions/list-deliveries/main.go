// Command list-deliveries is the Lambda that lists deliveries.
package main

import (
	"github.com/flovyn/promises/shared/app"
	"github.com/flovyn/promises/shared/gateway"
)

func main() { app.Run(gateway.ListDeliveries) }
