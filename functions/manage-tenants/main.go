// Command manage-tenants manages tenants, their API keys and their destinations of every
// kind. It runs as a Lambda
// function, or once from a shell: in the database of DATABASE_URL or through the
// deployed Lambda function.
package main

import "github.com/flovyn/promises/shared/app"

// connect is nil in the deployed build: see invoke.go.
var connect app.Connect

func main() { app.RunManageTenants(connect) }
