// Command wait-events is the Lambda that waits for new events in a workflow execution's log and reads them.
package main

import (
	"github.com/flovyn/promises/shared/app"
	"github.com/flovyn/promises/shared/gateway"
)

func main() { app.Run(gateway.WaitEvents) }
