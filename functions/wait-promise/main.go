// Command wait-promise is the Lambda that reads a promise once it is settled.
package main

import (
	"github.com/flovyn/promises/shared/app"
	"github.com/flovyn/promises/shared/gateway"
)

func main() { app.Run(gateway.WaitPromise) }
