// Command resolve-by-key is the Lambda that resolves promises by idempotency key, for callers with the SDK.
package main

import (
	"github.com/flovyn/promises/shared/app"
	"github.com/flovyn/promises/shared/gateway"
)

func main() { app.Run(gateway.ResolveByKey) }
