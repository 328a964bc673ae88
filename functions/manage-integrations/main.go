// Command manage-integrations manages a tenant's destinations. It runs as a Lambda
// function, or once from a shell: in the database of DATABASE_URL or through the
// deployed Lambda function.
package main

import (
	"github.com/flovyn/promises/shared/app"
	"github.com/flovyn/promises/shared/delivery/invoke"
)

// connect is nil in the deployed build: see invoke.go.
var connect app.Connect

func main() {
	app.RunManageIntegrations(connect, func(function string) app.Send { return invoke.New(function).Send })
}
