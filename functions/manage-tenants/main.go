// Command manage-tenants manages tenants and their API keys: as a Lambda, or once,
// from a shell, in the database of DATABASE_URL or through the deployed Lambda.
package main

import "github.com/flovyn/promises/shared/app"

// connect is nil in the build that is deployed: see invoke.go.
var connect app.Connect

func main() { app.RunManageTenants(connect) }
