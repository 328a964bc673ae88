// Command authorize is the Lambda that finds out who calls the HTTP API.
package main

import "github.com/flovyn/promises/shared/app"

func main() { app.RunAuthorize() }
