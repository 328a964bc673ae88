// Command resolve is the Lambda that resolves promises by either identifier: the HTTP entry.
package main

import (
	"github.com/flovyn/promises/shared/app"
	"github.com/flovyn/promises/shared/gateway"
)

func main() { app.Run(gateway.Resolve) }
