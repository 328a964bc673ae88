// Command delete-promise is the Lambda that erases the contents of a settled promise.
package main

import (
	"github.com/flovyn/promises/shared/app"
	"github.com/flovyn/promises/shared/gateway"
)

func main() { app.Run(gateway.DeletePromise) }
