// Command receive-webhook is the Lambda behind the URLs of sources. It verifies their requests itself.
package main

import (
	"github.com/flovyn/promises/shared/app"
	"github.com/flovyn/promises/shared/webhook/rule"
)

func main() { app.RunReceiveWebhook(rule.Compile) }
