// Command authorize is the Lambda that authenticates callers of the HTTP API.
package main

import "github.com/flovyn/promises/shared/app"

func main() { app.RunAuthorize() }
