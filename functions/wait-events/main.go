// Command wait-events is the Lambda that reads a workflow execution's log once it has an event.
package main

import (
	"github.com/flovyn/promises/shared/app"
	"github.com/flovyn/promises/shared/gateway"
)

func main() { app.Run(gateway.WaitEvents) }
