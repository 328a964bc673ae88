package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log/slog"

	"github.com/aws/aws-lambda-go/lambda/messages"

	"github.com/flovyn/promises/shared/migrate"
)

type migration struct {
	databaseURL string
	log         *slog.Logger
}

// run answers with a migrate.Result, or a migrate.Rehearsal.
func (m migration) run(ctx context.Context, dryRun bool) (any, error) {
	if dryRun {
		return migrate.Rehearse(ctx, m.databaseURL)
	}
	return migrate.Run(ctx, m.databaseURL, m.log)
}

// handle takes {} or {"dryRun": true}, to the letter: a dry run that is misspelt
// must not be the real thing.
func (m migration) handle(ctx context.Context, payload json.RawMessage) (any, error) {
	var options map[string]bool
	err := json.Unmarshal(payload, &options)
	dryRun, given := options["dryRun"]
	if err != nil || len(options) > 1 || len(options) == 1 && !given {
		return nil, messages.InvokeResponse_Error{Type: "invalid_payload", Message: `The payload must be {} or {"dryRun": true}.`}
	}
	answer, err := m.run(ctx, dryRun)
	if err != nil {
		return nil, messages.InvokeResponse_Error{Type: "migration_failed", Message: err.Error()}
	}
	return answer, nil
}

// runOnce takes -dry-run as its only argument, prints the answer as JSON, and
// returns the exit code: 1 also for a rehearsal that was refused.
func (m migration) runOnce(args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("migrate", flag.ContinueOnError)
	flags.SetOutput(stderr)
	dryRun := flags.Bool("dry-run", false, "do it all on the real data, report it, and roll it back")
	if err := flags.Parse(args); err != nil {
		return 2
	}
	if flags.NArg() > 0 {
		fmt.Fprintf(stderr, "there are no arguments, only flags: %q\n", flags.Arg(0))
		return 2
	}
	answer, err := m.run(context.Background(), *dryRun)
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
