// Command list-events is the Lambda that reads a workflow execution's log.
package main

import (
	"github.com/flovyn/promises/shared/app"
	"github.com/flovyn/promises/shared/gateway"
)

func main() { app.Run(gateway.ListEvents) }
