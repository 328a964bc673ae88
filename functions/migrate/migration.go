package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"

	"github.com/aws/aws-lambda-go/cfn"
	"github.com/aws/aws-lambda-go/lambda/messages"

	"github.com/flovyn/promises/shared/database"
	"github.com/flovyn/promises/shared/migrate"
)

type migration struct {
	database database.Options
	log      *slog.Logger
}

// options are what a call asks for.
type options struct {
	DryRun bool `json:"dryRun"`
	Roles  bool `json:"roles"`
}

// run answers with a migrate.Result, or a migrate.Rehearsal.
func (m migration) run(ctx context.Context, o options) (any, error) {
	if o.DryRun && o.Roles {
		return nil, errors.New("roles cannot be rehearsed: they are not the database's alone")
	}
	conf, err := database.ConnConfig(ctx, m.database)
	if err != nil {
		return nil, err
	}
	if o.DryRun {
		return migrate.Rehearse(ctx, conf)
	}
	return migrate.Run(ctx, conf, migrate.Options{Roles: o.Roles, Log: m.log})
}

// handle takes {}, {"dryRun": true}, {"roles": true}, to the letter: a dry run
// that is misspelt must not be the real thing. And it takes the events of a
// CloudFormation custom resource.
func (m migration) handle(ctx context.Context, payload json.RawMessage) (any, error) {
	var event cfn.Event
	if err := json.Unmarshal(payload, &event); err == nil && event.RequestType != "" && event.ResponseURL != "" {
		return nil, m.deploy(ctx, event)
	}
	var o options
	given := map[string]bool{}
	err := json.Unmarshal(payload, &given)
	for name, value := range given {
		switch name {
		case "dryRun":
			o.DryRun = value
		case "roles":
			o.Roles = value
		default:
			err = errors.New("unknown field")
		}
	}
	if err != nil {
		return nil, messages.InvokeResponse_Error{
			Type: "invalid_payload", Message: `The payload must be {}, {"dryRun": true} or {"roles": true}, or of CloudFormation.`,
		}
	}
	answer, err := m.run(ctx, o)
	if err != nil {
		return nil, messages.InvokeResponse_Error{Type: "migration_failed", Message: err.Error()}
	}
	return answer, nil
}

// runOnce takes -dry-run or -roles as its arguments, prints the answer as JSON, and
// returns the exit code: 1 also for a rehearsal that was refused.
func (m migration) runOnce(args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("migrate", flag.ContinueOnError)
	flags.SetOutput(stderr)
	var o options
	flags.BoolVar(&o.DryRun, "dry-run", false, "do it all on the real data, report it, and roll it back")
	flags.BoolVar(&o.Roles, "roles", false, "make the roles that the functions connect as, too")
	if err := flags.Parse(args); err != nil {
		return 2
	}
	if flags.NArg() > 0 {
		fmt.Fprintf(stderr, "there are no arguments, only flags: %q\n", flags.Arg(0))
		return 2
	}
	answer, err := m.run(context.Background(), o)
	if err != nil {
		fmt.Fprintln(stderr, err)
		return 1
	}
	code := 0
	if r, ok := answer.(migrate.Rehearsal); ok && r.Refused != "" {
		code = 1
	}
	out := json.NewEncoder(stdout)
	out.SetIndent("", "  ")
	if err := out.Encode(answer); err != nil {
		fmt.Fprintln(stderr, err)
		return 1
	}
	return code
}
