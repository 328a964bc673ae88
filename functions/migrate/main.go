// Command migrate brings the database of DATABASE_URL to the current schema. As
// a Lambda, at deploy time, its payload is {} or {"dryRun": true}; anywhere else
// it runs once, with -dry-run as its only flag, and prints the answer: a
// migrate.Result, or a migrate.Rehearsal.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"

	"github.com/aws/aws-lambda-go/lambda"
	"github.com/aws/aws-lambda-go/lambda/messages"

	"github.com/flovyn/promises/shared/config"
	"github.com/flovyn/promises/shared/migrate"
	"github.com/flovyn/promises/shared/telemetry"
)

func main() {
	conf, err := config.Load()
	log := telemetry.NewLogger(os.Stderr, conf.LogLevel)
	if err != nil {
		log.Error("cannot start", "cause", err.Error())
		os.Exit(1)
	}
	run := func(ctx context.Context, dryRun bool) (any, error) {
		if dryRun {
			return migrate.Rehearse(ctx, conf.DatabaseURL)
		}
		return migrate.Run(ctx, conf.DatabaseURL, log)
	}
	if os.Getenv("AWS_LAMBDA_RUNTIME_API") != "" {
		serve(run)
	}
	dryRun := flag.Bool("dry-run", false, "do it all on the real data, report it, and roll it back")
	flag.Parse()
	if flag.NArg() > 0 {
		fmt.Fprintf(os.Stderr, "there are no arguments, only flags: %q\n", flag.Arg(0))
		os.Exit(2)
	}
	answer, err := run(context.Background(), *dryRun)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	out := json.NewEncoder(os.Stdout)
	out.SetIndent("", "  ")
	if err := out.Encode(answer); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// serve takes the payload to the letter: a dry run that is misspelt must not be
// the real thing.
func serve(run func(ctx context.Context, dryRun bool) (any, error)) {
	lambda.Start(func(ctx context.Context, payload json.RawMessage) (any, error) {
		var options map[string]bool
		err := json.Unmarshal(payload, &options)
		dryRun, given := options["dryRun"]
		if err != nil || len(options) > 1 || len(options) == 1 && !given {
			return nil, messages.InvokeResponse_Error{Type: "invalid_payload", Message: `The payload must be {} or {"dryRun": true}.`}
		}
		answer, err := run(ctx, dryRun)
		if err != nil {
			return nil, messages.InvokeResponse_Error{Type: "migration_failed", Message: err.Error()}
		}
		return answer, nil
	})
}
