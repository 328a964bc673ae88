// Command extend-promise is the Lambda that moves promises' deadlines.
package main

import (
	"github.com/flovyn/promises/shared/app"
	"github.com/flovyn/promises/shared/gateway"
)

func main() { app.Run(gateway.ExtendPromise) }
