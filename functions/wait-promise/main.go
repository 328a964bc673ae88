// Command wait-promise is the Lambda that waits until a promise is settled and reads it.
package main

import (
	"github.com/flovyn/promises/shared/app"
	"github.com/flovyn/promises/shared/gateway"
)

func main() { app.Run(gateway.WaitPromise) }
