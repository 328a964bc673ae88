// Command retry-deliveries is the Lambda that repeats deliveries.
package main

import (
	"github.com/flovyn/promises/shared/app"
	"github.com/flovyn/promises/shared/gateway"
)

func main() { app.Run(gateway.RetryDeliveries) }
