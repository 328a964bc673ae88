package app

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/aws/aws-lambda-go/lambda"

	"github.com/flovyn/promises/shared/auth"
	"github.com/flovyn/promises/shared/gateway"
	"github.com/flovyn/promises/shared/promise"
)

const tenantUsage = `usage: manage-tenants [--function <name>] <command>

  create <slug>                                     create a tenant
  list                                              list all tenants, with their limits and usage
  suspend <slug>                                    refuse every call for the tenant
  resume <slug>                                     accept its calls again
  set-limits <slug> <limit>=<number> ...            limits: pending, workflowPromises, held, heldBytes, waits; the number may be: default
  delete <slug> [confirm]                           report the tenant's contents; with the word confirm: delete a suspended tenant for ever
  create-key <tenant> <name> <scopes> [<expires>]   scopes: create,settle,read,manage,deliver; expires: an RFC 3339 time
  list-keys <tenant>
  revoke-key <tenant> <key id> [tokens]             with the word tokens: revoke the promise tokens that the API key requested, too
  put-destination <tenant> <name> <kind> [<field>=<value> ...]
                                                    create or change a destination; kinds: https (url=), sqs, sns, eventbridge, lambda (address=),
                                                    email (address=, from=), stepFunctions, durableExecution; for AWS also region= and roleArn=;
                                                    for all enabled=true or enabled=false
  list-destinations <tenant>
  delete-destination <tenant> <name>                delete a destination, and end the deliveries to it
  reencrypt                                         encrypt all secrets and kept bodies with the newest sealing key
  @<file>                                           send the JSON of a file, such as {"action": "list-tenants"}; @- reads standard input

With --function, the command invokes the deployed Lambda of that name or ARN, with the AWS credentials and the region
of the environment or the AWS profile. Without it, the command works on the database of DATABASE_URL; put-destination
and reencrypt then need SEALING_KEYS.
`

var tenantTool = tool{
	name: "manage-tenants", usage: tenantUsage, optional: []string{"expiresAt", "tokens", "confirm"}, flags: []string{"tokens", "confirm"},
	commands: map[string]shellCommand{
		"create":             {action: "create-tenant", args: []string{"slug"}},
		"list":               {action: "list-tenants"},
		"suspend":            {action: "suspend-tenant", args: []string{"slug"}},
		"resume":             {action: "resume-tenant", args: []string{"slug"}},
		"set-limits":         {action: "set-limits", args: []string{"slug"}, pair: limitOf, needed: "limits"},
		"delete":             {action: "delete-tenant", args: []string{"slug", "confirm"}},
		"create-key":         {action: "create-key", args: []string{"tenant", "name", "scopes", "expiresAt"}},
		"list-keys":          {action: "list-keys", args: []string{"tenant"}},
		"revoke-key":         {action: "revoke-key", args: []string{"tenant", "keyId", "tokens"}},
		"put-destination":    {action: "put-destination", args: []string{"tenant", "name", "kind"}, pair: destinationField},
		"list-destinations":  {action: "list-destinations", args: []string{"tenant"}},
		"delete-destination": {action: "delete-destination", args: []string{"tenant", "name"}},
		"reencrypt":          {action: "reencrypt"},
	},
	handler: func(s service) lambda.Handler {
		return &gateway.TenantHandler{
			Store: s.store, Integrations: s.integrations(), Reencrypt: s.reencrypt, Timeout: callTimeout, Log: s.log,
			NewAPIKey: func() (string, []byte) {
				secret := auth.NewAPIKey()
				return secret, auth.HashAPIKey(secret)
			},
		}
	},
}

// RunManageTenants serves a gateway.TenantHandler until Lambda ends the process. In a
// shell, it runs the command in its arguments, prints the answer and exits: with 1 if
// the command failed, with 2 if the arguments are invalid. If connect is nil,
// --function is refused.
func RunManageTenants(connect Connect) { tenantTool.run(connect) }

// limitOf parses an argument such as pending=1000 or pending=default.
func limitOf(arg string) (name string, value any, err error) {
	name, text, ok := strings.Cut(arg, "=")
	if _, known := promise.LimitOf(name); !ok || !known {
		return "", nil, usageError(fmt.Sprintf("%q is not a limit. Write pending=1000 or pending=default, for example.", arg))
	}
	if text == "default" {
		return name, nil, nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return "", nil, usageError(fmt.Sprintf("%q is not a whole number. Write %s=1000 or %s=default, for example.", text, name, name))
	}
	return name, n, nil
}

// destinationField parses an argument such as region=eu-central-1.
func destinationField(arg string) (name string, value any, err error) {
	name, text, ok := strings.Cut(arg, "=")
	switch {
	case ok && name == "enabled" && (text == "true" || text == "false"):
		return name, text == "true", nil
	case ok && (name == "url" || name == "address" || name == "from" || name == "region" || name == "roleArn"):
		return name, text, nil
	}
	return "", nil, usageError(fmt.Sprintf("%q is not a field of a destination. Write url=, address=, from=, region=, roleArn= or enabled=true, for example.", arg))
}
