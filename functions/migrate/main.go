// Command migrate is the Lambda that brings the database to the current schema,
// at deploy time. Its payload is {}, its answer migrate.Result.
package main

import (
	"context"
	"encoding/json"
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
	lambda.Start(func(ctx context.Context, payload json.RawMessage) (migrate.Result, error) {
		var options map[string]any
		if err := json.Unmarshal(payload, &options); err != nil || len(options) > 0 {
			return migrate.Result{}, messages.InvokeResponse_Error{Type: "invalid_payload", Message: "The payload must be {}."}
		}
		result, err := migrate.Run(ctx, conf.DatabaseURL, log)
		if err != nil {
			return result, messages.InvokeResponse_Error{Type: "migration_failed", Message: err.Error()}
		}
		return result, nil
	})
}
