// Command migrate brings the database of DATABASE_URL to the current schema: as
// a Lambda, at deploy time, or once, from a shell.
package main

import (
	"context"
	"os"

	"github.com/aws/aws-lambda-go/lambda"

	"github.com/flovyn/promises/shared/config"
	"github.com/flovyn/promises/shared/database"
	"github.com/flovyn/promises/shared/secret"
	"github.com/flovyn/promises/shared/telemetry"
)

func main() {
	conf, err := config.Load()
	log := telemetry.NewLogger(os.Stderr, conf.LogLevel)
	if err != nil {
		log.Error("cannot start", "cause", err.Error())
		os.Exit(1)
	}
	m := migration{log: log, database: database.Options{
		URL: conf.DatabaseURL, IAMAuth: conf.IAMAuth, QueryExecMode: conf.QueryExecMode,
	}}
	if conf.PasswordSecret != "" {
		m.database.Secret = func(ctx context.Context) (string, error) { return secret.Get(ctx, conf.PasswordSecret) }
	}
	if os.Getenv("AWS_LAMBDA_RUNTIME_API") != "" {
		lambda.Start(m.handle)
	}
	os.Exit(m.runOnce(os.Args[1:], os.Stdout, os.Stderr))
}
