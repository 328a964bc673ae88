// Command batch-resolve is the Lambda that settles many promises at once.
package main

import (
	"github.com/flovyn/promises/shared/app"
	"github.com/flovyn/promises/shared/gateway"
)

func main() { app.Run(gateway.BatchResolve) }
