// Command migrate brings the database of DATABASE_URL to the current schema. It
// runs as a Lambda function at deploy time, or once from a shell.
package main

import (
	"fmt"
	"log/slog"
	"os"

	"github.com/aws/aws-lambda-go/lambda"

	"github.com/flovyn/promises/shared/telemetry"
)

func main() {
	if os.Getenv("AWS_LAMBDA_RUNTIME_API") == "" {
		o, code, ok := readFlags(os.Args[1:], os.Stdout, os.Stderr)
		if !ok {
			os.Exit(code)
		}
		m, err := newMigration()
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(2)
		}
		os.Exit(m.runOnce(o, os.Stdout, os.Stderr))
	}
	m, err := newMigration()
	if err != nil {
		m.log.Error("cannot start", "cause", err.Error())
		os.Exit(1)
	}
	slog.SetDefault(m.log) // for aws-lambda-go
	telemetry.QuietFunctionErrors()
	lambda.Start(m)
}
