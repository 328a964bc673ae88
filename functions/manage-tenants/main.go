// Command manage-tenants manages tenants and their API keys in the database of
// DATABASE_URL: as a Lambda, or once, from a shell.
package main

import "github.com/flovyn/promises/shared/app"

func main() { app.RunManageTenants() }
