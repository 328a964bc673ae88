// Command resolve is the Lambda that resolves promises by id or by idempotency key, for callers over HTTP.
package main

import (
	"github.com/flovyn/promises/shared/app"
	"github.com/flovyn/promises/shared/gateway"
)

func main() { app.Run(gateway.Resolve) }
