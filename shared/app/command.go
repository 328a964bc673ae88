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
	"strings"
	"time"

	"github.com/aws/aws-lambda-go/lambda"
	"github.com/aws/aws-lambda-go/lambda/messages"

	"github.com/flovyn/promises/shared/config"
	"github.com/flovyn/promises/shared/rawjson"
)

// functionTime limits a call of a deployed function, including the search for AWS
// credentials.
const functionTime = time.Minute

// A Connect is a function that returns a handler for a deployed function, given its
// name or ARN. The handler returns the deployed function's errors, or the reason why
// the invocation failed.
type Connect func(ctx context.Context, function string) (lambda.Handler, error)

// A tool is a function that is also a command in a shell.
type tool struct {
	name     string
	usage    string
	commands map[string]shellCommand
	optional []string // the arguments that may be omitted
	flags    []string // of these, the arguments that are the word of their name
	handler  func(service) lambda.Handler
}

// A shellCommand makes the payload of one action.
type shellCommand struct {
	action string
	args   []string       // the field of each argument
	fixed  map[string]any // more fields

	// pair parses an argument of the form name=value, after the others. With file, an
	// argument @FILE may stand there, too: a JSON object with more fields. needed is the
	// name of these arguments if there must be at least one.
	pair   func(argument string) (name string, value any, err error)
	file   bool
	needed string
}

// run serves the handler until Lambda ends the process. In a shell, it runs the command
// in the arguments, prints the answer and exits: with 1 if the command failed, with 2 if
// the arguments are invalid. If connect is nil, --function is refused.
func (t tool) run(connect Connect) {
	if os.Getenv("AWS_LAMBDA_RUNTIME_API") == "" {
		c := command{tool: t, connect: connect, stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr}
		os.Exit(c.run(os.Args[1:]))
	}
	start(t.handler)
}

// A command is one run of a tool in a shell.
type command struct {
	tool
	connect        Connect
	stdin          io.Reader
	stdout, stderr io.Writer
}

// A usageError is the error of invalid arguments.
type usageError string

func (e usageError) Error() string { return string(e) }

func (c command) run(args []string) (code int) {
	flags := flag.NewFlagSet(c.name, flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	function := flags.String("function", "", "")
	switch err := flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		fmt.Fprint(c.stdout, c.usage)
		return 0
	case err != nil:
		fmt.Fprintf(c.stderr, "%v\n\n%s", err, c.usage)
		return 2
	}
	request, err := c.payload(flags.Args())
	if e, ok := errors.AsType[usageError](err); ok {
		fmt.Fprintf(c.stderr, "%v\n\n%s", e, c.usage)
		return 2
	}
	if err == nil && *function == "" && os.Getenv("DATABASE_URL") == "" {
		fmt.Fprintf(c.stderr, "DATABASE_URL is not set. Set it, or name the deployed Lambda: %s --function <name> <command>\n", c.name)
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
	name, args := args[0], args[1:]
	one, ok := c.commands[name]
	switch {
	case !ok:
		return nil, usageError(fmt.Sprintf("Unknown command %q.", name))
	case len(args) > len(one.args) && one.pair == nil && !one.file:
		return nil, usageError(fmt.Sprintf("%s takes no argument %q. Write flags before the command.", name, args[len(one.args)]))
	case len(args) < len(one.args) && !slices.Contains(c.optional, one.args[len(args)]):
		return nil, usageError(fmt.Sprintf("%s: the argument %s is missing.", name, one.args[len(args)]))
	case len(args) == len(one.args) && one.needed != "":
		return nil, usageError(fmt.Sprintf("%s: the argument %s is missing.", name, one.needed))
	}
	payload := map[string]any{"action": one.action}
	for field, value := range one.fixed {
		payload[field] = value
	}
	for i, arg := range args {
		if i < len(one.args) {
			payload[one.args[i]] = arg
			continue
		}
		if err := c.addMore(payload, one, arg); err != nil {
			return nil, err
		}
	}
	for _, flag := range c.flags {
		if word, ok := payload[flag]; ok {
			if word != flag {
				return nil, usageError(fmt.Sprintf("%q is not an argument of %s. Write %s, or nothing.", word, name, flag))
			}
			payload[flag] = true
		}
	}
	if scopes, ok := payload["scopes"].(string); ok {
		payload["scopes"] = strings.Split(scopes, ",")
	}
	return json.Marshal(payload)
}

// addMore adds the fields of an argument that stands after the others.
func (c command) addMore(payload map[string]any, one shellCommand, arg string) error {
	name, isFile := strings.CutPrefix(arg, "@")
	switch {
	case isFile && one.file:
		text, err := c.read(name)
		if err != nil {
			return err
		}
		fields, err := rawjson.ParseAny(text)
		if err != nil {
			return fmt.Errorf("%s must contain a JSON object, with no name twice: %w", name, err)
		}
		for field, raw := range fields {
			if _, twice := payload[field]; twice {
				return fmt.Errorf("%s has the field %s, which the command has already. Leave it out", name, field)
			}
			payload[field] = raw
		}
		return nil
	case one.pair == nil:
		return usageError(fmt.Sprintf("%q is not an argument of this command. Write @ and the name of a file, or @- for standard input.", arg))
	}
	field, value, err := one.pair(arg)
	if err == nil {
		payload[field] = value
	}
	return err
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

// callUntilDone makes the call. It repeats a deletion and a reencryption until they are
// done, and adds up the numbers of rows.
func (c command) callUntilDone(function string, payload []byte) ([]byte, error) {
	deleted, reencrypted := map[string]int64{}, int64(0)
	for {
		answer, err := c.call(function, payload)
		if err != nil {
			return nil, err
		}
		var part struct {
			Deleted     json.RawMessage
			Reencrypted *int64
			Done        bool
		}
		counts := map[string]int64{}
		if json.Unmarshal(answer, &part) != nil || part.Reencrypted == nil && json.Unmarshal(part.Deleted, &counts) != nil {
			return answer, nil
		}
		for name, n := range counts {
			deleted[name] += n
		}
		if part.Reencrypted != nil {
			reencrypted += *part.Reencrypted
		}
		if !part.Done {
			continue
		}
		var whole map[string]any
		if err := json.Unmarshal(answer, &whole); err != nil {
			return nil, err
		}
		if part.Reencrypted != nil {
			whole["reencrypted"] = reencrypted
		} else {
			whole["deleted"] = deleted
		}
		return json.Marshal(whole)
	}
}

// call sends the payload to the deployed function. If function is empty, call handles
// the payload itself, on the database of DATABASE_URL.
func (c command) call(function string, payload []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), functionTime)
	defer cancel()
	if function != "" {
		if c.connect == nil {
			return nil, fmt.Errorf("this build cannot invoke functions; use: go run ./functions/%s", c.name)
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
	s, err := newService(conf, slog.New(slog.NewTextHandler(c.stderr, &slog.HandlerOptions{Level: slog.LevelError})), pool)
	if err != nil {
		return nil, err
	}
	return c.handler(s).Invoke(ctx, payload)
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
