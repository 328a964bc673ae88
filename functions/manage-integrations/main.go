// Command manage-integrations manages a tenant's destinations and sources. It runs as a
// Lambda function, or once from a shell: in the database of DATABASE_URL or through the
// deployed Lambda function.
package main

import (
	"github.com/flovyn/promises/shared/app"
	"github.com/flovyn/promises/shared/delivery/invoke"
	"github.com/flovyn/promises/shared/webhook/rule"
)

// connect is nil in the deployed build: see invoke.go.
var connect app.Connect

func main() {
	app.RunManageIntegrations(connect, rule.Compile, func(function string) app.Send { return invoke.New(function).Send })
}
