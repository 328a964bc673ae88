package app

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/aws/aws-lambda-go/lambda"
	"github.com/aws/aws-lambda-go/lambda/messages"

	"github.com/flovyn/promises/shared/auth"
	"github.com/flovyn/promises/shared/gateway"
)

const usage = `usage: manage-tenants <command>

  create <slug>                                     create a tenant
  list                                              list all tenants
  suspend <slug>                                    none of its credentials opens anything any more
  resume <slug>                                     as before
  create-key <tenant> <name> <scopes> [<expires>]   scopes: create,settle,read; expires: an RFC 3339 time
  list-keys <tenant>
  revoke-key <tenant> <key id> [tokens]             with the word tokens: the promise tokens that the key asked for, too

The database is that of DATABASE_URL.
`

// RunManageTenants serves a gateway.TenantHandler until Lambda ends the process.
// Started from a shell instead, it does what its arguments say, prints the
// answer, and exits: with 1 where that failed, 2 where they say nothing.
func RunManageTenants() {
	start(func(s service) lambda.Handler {
		h := &gateway.TenantHandler{Store: s.store, Timeout: callTimeout, Log: s.log, NewKey: func() (string, []byte) {
			secret := auth.NewKey()
			return secret, auth.HashKey(secret)
		}}
		if os.Getenv("AWS_LAMBDA_RUNTIME_API") == "" {
			os.Exit(manage(h, os.Args[1:], os.Stdout, os.Stderr))
		}
		return h
	})
}

// commands gives the action of each command, and the fields that its arguments
// are.
var commands = map[string][]string{
	"create":     {"create-tenant", "slug"},
	"list":       {"list-tenants"},
	"suspend":    {"suspend-tenant", "slug"},
	"resume":     {"resume-tenant", "slug"},
	"create-key": {"create-key", "tenant", "name", "scopes", "expiresAt"},
	"list-keys":  {"list-keys", "tenant"},
	"revoke-key": {"revoke-key", "tenant", "keyId", "tokens"},
}

func manage(h lambda.Handler, args []string, stdout, stderr io.Writer) int {
	payload := map[string]any{}
	if len(args) > 0 {
		if command, ok := commands[args[0]]; ok && len(args) <= len(command) {
			payload["action"] = command[0]
			for i, arg := range args[1:] {
				payload[command[i+1]] = arg
			}
			if scopes, ok := payload["scopes"].(string); ok {
				payload["scopes"] = strings.Split(scopes, ",")
			}
			if payload["tokens"] == "tokens" { // any other word is refused
				payload["tokens"] = true
			}
		}
	}
	if len(payload) == 0 {
		fmt.Fprint(stderr, usage)
		return 2
	}
	request, err := json.Marshal(payload)
	if err != nil {
		fmt.Fprintln(stderr, err)
		return 1
	}
	answer, err := h.Invoke(context.Background(), request)
	if err != nil {
		fmt.Fprintln(stderr, explain(err))
		return 1
	}
	var indented bytes.Buffer
	if err := json.Indent(&indented, answer, "", "  "); err != nil {
		fmt.Fprintln(stderr, err)
		return 1
	}
	fmt.Fprintln(stdout, indented.String())
	return 0
}

// explain puts a function error into words.
func explain(err error) string {
	var e messages.InvokeResponse_Error
	var problem struct{ Detail, Field string }
	if !errors.As(err, &e) || json.Unmarshal([]byte(e.Message), &problem) != nil {
		return err.Error()
	}
	if problem.Field != "" {
		return problem.Field + ": " + problem.Detail
	}
	return problem.Detail
}
