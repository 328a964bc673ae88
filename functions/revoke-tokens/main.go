// Command revoke-tokens is the Lambda that revokes a promise's tokens.
package main

import (
	"github.com/flovyn/promises/shared/app"
	"github.com/flovyn/promises/shared/gateway"
)

func main() { app.Run(gateway.RevokeTokens) }
