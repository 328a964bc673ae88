// Command reject is the Lambda that rejects promises by id or by idempotency key.
package main

import (
	"github.com/flovyn/promises/shared/app"
	"github.com/flovyn/promises/shared/gateway"
)

func main() { app.Run(gateway.Reject) }
