// Command cancel-promise is the Lambda that cancels promises.
package main

import (
	"github.com/flovyn/promises/shared/app"
	"github.com/flovyn/promises/shared/gateway"
)

func main() { app.Run(gateway.CancelPromise) }
