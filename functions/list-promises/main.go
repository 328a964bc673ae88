// Command list-promises is the Lambda that lists a tenant's promises.
package main

import (
	"github.com/flovyn/promises/shared/app"
	"github.com/flovyn/promises/shared/gateway"
)

func main() { app.Run(gateway.ListPromises) }
