// Command extend-promise is the Lambda that changes the deadlines of promises.
package main

import (
	"github.com/flovyn/promises/shared/app"
	"github.com/flovyn/promises/shared/gateway"
)

func main() { app.Run(gateway.ExtendPromise) }
