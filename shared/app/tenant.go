package app

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-lambda-go/lambda"
	"github.com/aws/aws-lambda-go/lambda/messages"

	"github.com/flovyn/promises/shared/auth"
	"github.com/flovyn/promises/shared/config"
	"github.com/flovyn/promises/shared/gateway"
	"github.com/flovyn/promises/shared/promise"
	"github.com/flovyn/promises/shared/repository"
)

const usage = `usage: manage-tenants [--function <name>] <command>

  create <slug>                                     create a tenant
  list                                              list all tenants, with their limits and usage
  suspend <slug>                                    refuse every call for the tenant
  resume <slug>                                     accept its calls again
  set-limits <slug> <limit>=<number> ...            limits: pending, workflowPromises, held, heldBytes, waits; the number may be: default
  delete <slug> [confirm]                           report the tenant's contents; with the word confirm: delete a suspended tenant for ever
  create-key <tenant> <name> <scopes> [<expires>]   scopes: create,settle,read,manage; expires: an RFC 3339 time
  list-keys <tenant>
  revoke-key <tenant> <key id> [tokens]             with the word tokens: revoke the promise tokens that the API key requested, too
  @<file>                                           send the JSON of a file, such as {"action": "list-tenants"}; @- reads standard input

With --function, the command invokes the deployed Lambda of that name or ARN, with the AWS credentials and the region
of the environment or the AWS profile. Without it, the command works on the database of DATABASE_URL.
`

// functionTime limits a call of a deployed function, including the search for AWS
// credentials.
const functionTime = time.Minute

// A Connect is a function that returns a handler for a deployed function, given its
// name or ARN. The handler returns the deployed function's errors, or the reason why
// the invocation failed.
type Connect func(ctx context.Context, function string) (lambda.Handler, error)

// RunManageTenants serves a gateway.TenantHandler until Lambda ends the process. In a
// shell, it runs the command in its arguments, prints the answer and exits: with 1 if
// the command failed, with 2 if the arguments are invalid. If connect is nil,
// --function is refused.
func RunManageTenants(connect Connect) {
	if os.Getenv("AWS_LAMBDA_RUNTIME_API") == "" {
		c := command{connect: connect, stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr}
		os.Exit(c.run(os.Args[1:]))
	}
	start(func(s service) lambda.Handler { return tenantHandler(s.store, s.log) })
}

func tenantHandler(store gateway.TenantStore, log *slog.Logger) lambda.Handler {
	return &gateway.TenantHandler{Store: store, Timeout: callTimeout, Log: log, NewAPIKey: func() (string, []byte) {
		secret := auth.NewAPIKey()
		return secret, auth.HashAPIKey(secret)
	}}
}

// optional lists the arguments that may be omitted.
var optional = []string{"expiresAt", "tokens", "confirm"}

// limitsArgument stands for one or more arguments of the form name=value.
const limitsArgument = "limits"

// commands maps each command to its action and the field of each argument.
var commands = map[string][]string{
	"create":     {"create-tenant", "slug"},
	"list":       {"list-tenants"},
	"suspend":    {"suspend-tenant", "slug"},
	"resume":     {"resume-tenant", "slug"},
	"set-limits": {"set-limits", "slug", limitsArgument},
	"delete":     {"delete-tenant", "slug", "confirm"},
	"create-key": {"create-key", "tenant", "name", "scopes", "expiresAt"},
	"list-keys":  {"list-keys", "tenant"},
	"revoke-key": {"revoke-key", "tenant", "keyId", "tokens"},
}

// A command is one run of manage-tenants in a shell.
type command struct {
	connect        Connect
	stdin          io.Reader
	stdout, stderr io.Writer
}

// A usageError is the error of invalid arguments.
type usageError string

func (e usageError) Error() string { return string(e) }

func (c command) run(args []string) (code int) {
	flags := flag.NewFlagSet("manage-tenants", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	function := flags.String("function", "", "")
	switch err := flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		fmt.Fprint(c.stdout, usage)
		return 0
	case err != nil:
		fmt.Fprintf(c.stderr, "%v\n\n%s", err, usage)
		return 2
	}
	request, err := c.payload(flags.Args())
	if e, ok := errors.AsType[usageError](err); ok {
		fmt.Fprintf(c.stderr, "%v\n\n%s", e, usage)
		return 2
	}
	if err == nil && *function == "" && os.Getenv("DATABASE_URL") == "" {
		fmt.Fprintln(c.stderr, "DATABASE_URL is not set. Set it, or name the deployed Lambda: manage-tenants --function <name> <command>")
		return 2
	}
	var answer []byte
	if err == nil {
		answer, err = c.callUntilDone(*function, request)
	}
	if err != nil {
		fmt.Fprintln(c.stderr, explain(err))
		return 1
	}
	var indented bytes.Buffer
	if err := json.Indent(&indented, answer, "", "  "); err != nil {
		fmt.Fprintln(c.stderr, err)
		return 1
	}
	fmt.Fprintln(c.stdout, indented.String())
	return 0
}

// payload returns the function's payload for the arguments.
func (c command) payload(args []string) ([]byte, error) {
	if len(args) == 0 {
		return nil, usageError("The command is missing.")
	}
	if file, ok := strings.CutPrefix(args[0], "@"); ok && len(args) == 1 {
		return c.read(file)
	}
	fields, ok := commands[args[0]]
	switch {
	case !ok:
		return nil, usageError(fmt.Sprintf("Unknown command %q.", args[0]))
	case len(args) > len(fields) && !slices.Contains(fields, limitsArgument):
		return nil, usageError(fmt.Sprintf("%s takes no argument %q. Write flags before the command.", args[0], args[len(fields)]))
	case len(args) < len(fields) && !slices.Contains(optional, fields[len(args)]):
		return nil, usageError(fmt.Sprintf("%s: the argument %s is missing.", args[0], fields[len(args)]))
	}
	payload := map[string]any{"action": fields[0]}
	for i, arg := range args[1:] {
		if i+1 < len(fields) && fields[i+1] != limitsArgument {
			payload[fields[i+1]] = arg
			continue
		}
		name, value, err := limitOf(arg)
		if err != nil {
			return nil, err
		}
		payload[name] = value
	}
	if scopes, ok := payload["scopes"].(string); ok {
		payload["scopes"] = strings.Split(scopes, ",")
	}
	for _, flag := range []string{"tokens", "confirm"} {
		if word, ok := payload[flag]; ok {
			if word != flag {
				return nil, usageError(fmt.Sprintf("%q is not an argument of %s. Write %s, or nothing.", word, args[0], flag))
			}
			payload[flag] = true
		}
	}
	return json.Marshal(payload)
}

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

// read returns the contents of a JSON file; - means standard input.
func (c command) read(file string) (text []byte, err error) {
	if file == "-" {
		file = "standard input"
		text, err = io.ReadAll(c.stdin)
	} else {
		text, err = os.ReadFile(file)
	}
	if err == nil && !json.Valid(text) {
		err = fmt.Errorf("%s must contain JSON", file)
	}
	return text, err
}

// callUntilDone makes the call. It repeats a deletion until the tenant is deleted,
// and adds up the numbers of deleted rows.
func (c command) callUntilDone(function string, payload []byte) ([]byte, error) {
	total := map[string]int64{}
	for {
		answer, err := c.call(function, payload)
		if err != nil {
			return nil, err
		}
		var deletion struct {
			Deleted map[string]int64
			Done    bool
		}
		if json.Unmarshal(answer, &deletion) != nil || deletion.Deleted == nil {
			return answer, nil
		}
		for name, n := range deletion.Deleted {
			total[name] += n
		}
		if deletion.Done {
			var whole map[string]any
			if err := json.Unmarshal(answer, &whole); err != nil {
				return nil, err
			}
			whole["deleted"] = total
			return json.Marshal(whole)
		}
	}
}

// call sends the payload to the deployed function. If function is empty, call handles
// the payload itself, on the database of DATABASE_URL.
func (c command) call(function string, payload []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), functionTime)
	defer cancel()
	if function != "" {
		if c.connect == nil {
			return nil, errors.New("this build cannot invoke functions; use: go run ./functions/manage-tenants")
		}
		h, err := c.connect(ctx, function)
		if err != nil {
			return nil, err
		}
		return h.Invoke(ctx, payload)
	}
	conf, err := config.Load()
	if err != nil {
		return nil, err
	}
	pool, err := openPool(conf, 0)
	if err != nil {
		return nil, err
	}
	defer pool.Close()
	// The cause of an internal error appears only in the log.
	log := slog.New(slog.NewTextHandler(c.stderr, &slog.HandlerOptions{Level: slog.LevelError}))
	return tenantHandler(repository.New(pool), log).Invoke(ctx, payload)
}

// explain returns the text of an error for the shell: a problem's field and detail,
// without the JSON around them.
func explain(err error) string {
	var e messages.InvokeResponse_Error
	if !errors.As(err, &e) {
		return err.Error()
	}
	var problem struct{ Detail, Field string }
	if json.Unmarshal([]byte(e.Message), &problem) != nil || problem.Detail == "" {
		return e.Type + ": " + e.Message // Lambda's own error, such as a timeout
	}
	if problem.Field != "" {
		return problem.Field + ": " + problem.Detail
	}
	return problem.Detail
}
