// Command list-receipts is the Lambda that lists the receipts of webhooks.
package main

import (
	"github.com/flovyn/promises/shared/app"
	"github.com/flovyn/promises/shared/gateway"
)

func main() { app.Run(gateway.ListReceipts) }
