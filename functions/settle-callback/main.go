// Command settle-callback is the Lambda behind callback URLs. It verifies their tokens itself.
package main

import (
	"github.com/flovyn/promises/shared/app"
	"github.com/flovyn/promises/shared/gateway"
)

func main() { app.Run(gateway.SettleCallback) }
