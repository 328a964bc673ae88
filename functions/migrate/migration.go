package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"github.com/aws/aws-lambda-go/lambda/messages"

	"github.com/flovyn/promises/shared/config"
	"github.com/flovyn/promises/shared/database"
	"github.com/flovyn/promises/shared/migrate"
	"github.com/flovyn/promises/shared/secret"
	"github.com/flovyn/promises/shared/telemetry"
)

// A migration holds the configuration of the function.
type migration struct {
	database    database.Options
	signingKey  string        // SIGNING_KEY
	sealingKeys string        // SEALING_KEYS
	patience    time.Duration // how long run waits for a database that is still starting
	log         *slog.Logger
}

// A result is the answer to a call that is not a dry run.
type result struct {
	migrate.Result

	// SigningKey is the kid of the key that signs promise tokens. It is empty
	// without SIGNING_KEY, or if a later release has migrated the database.
	SigningKey string `json:"signingKey,omitempty"`

	// SealingKey is "created" or "rotated" if the run did so.
	SealingKey string `json:"sealingKey,omitempty"`
}

// newMigration reads the environment.
func newMigration() (migration, error) {
	conf, err := config.Load()
	m := migration{
		log: telemetry.NewLogger(os.Stderr, conf.LogLevel), patience: database.ConnectPatience, signingKey: conf.SigningKey,
		sealingKeys: conf.SealingKeys,
		database:    database.Options{URL: conf.DatabaseURL, IAMAuth: conf.IAMAuth, QueryExecMode: conf.QueryExecMode},
	}
	if conf.PasswordSecret != "" {
		m.database.Secret = func(ctx context.Context) (string, error) { return secret.Get(ctx, conf.PasswordSecret) }
	}
	return m, err
}

// run returns a result, or a migrate.Rehearsal for a dry run. It waits for a
// database that is still starting.
func (m migration) run(ctx context.Context, o options) (answer any, err error) {
	if err := errors.Join(o.check(), m.checkSigningKey(o), m.checkSealingKeys(o)); err != nil {
		return nil, err
	}
	err = database.Retry(ctx, m.patience, m.log, func(ctx context.Context) error {
		conf, err := database.ConnConfig(ctx, m.database) // for each try: the password may have changed
		if err != nil {
			return err
		}
		if o.DryRun {
			answer, err = migrate.Rehearse(ctx, conf)
			return err
		}
		var done result
		if done.Result, err = migrate.Run(ctx, conf, migrate.Options{Roles: o.Roles, Log: m.log}); err == nil && m.signingKey != "" {
			done.SigningKey, err = m.ensureSigningKey(ctx, conf, o)
		}
		if err == nil && secret.IsARN(m.sealingKeys) {
			done.SealingKey, err = m.ensureSealingKeys(ctx, conf, o)
		}
		answer = done
		return err
	})
	return answer, err
}

// Invoke implements lambda.Handler. readPayload lists the payloads.
func (m migration) Invoke(ctx context.Context, payload []byte) ([]byte, error) {
	o, event, err := readPayload(payload)
	if err != nil {
		return nil, messages.InvokeResponse_Error{Type: "invalid_payload", Message: err.Error()}
	}
	if event != nil {
		if err := m.deploy(ctx, *event); err != nil {
			return nil, err
		}
		return []byte("null"), nil
	}
	answer, err := m.run(ctx, o)
	if err != nil {
		return nil, messages.InvokeResponse_Error{Type: "migration_failed", Message: err.Error()}
	}
	return json.Marshal(answer)
}

// readFlags reads the arguments of the command line. If they ask for help or are
// invalid, ok is false and code is the exit code.
func readFlags(args []string, stdout, stderr io.Writer) (o options, code int, ok bool) {
	flags := flag.NewFlagSet("migrate", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.BoolVar(&o.DryRun, "dry-run", false, "apply the files to the real data, report each step, and roll everything back")
	flags.BoolVar(&o.Roles, "roles", false, "create the database roles of the functions, too")
	flags.BoolVar(&o.RotateSigningKey, "rotate-signing-key", false, "write a new signing key to the secret of SIGNING_KEY, too; tokens of the old key stay valid")
	flags.BoolVar(&o.Revoke, "revoke", false, "with -rotate-signing-key: end all tokens of earlier signing keys")
	flags.BoolVar(&o.RotateSealingKey, "rotate-sealing-key", false, "add a new sealing key to the secret of SEALING_KEYS, too; run manage-tenants reencrypt afterwards")
	usage := func(w io.Writer) {
		fmt.Fprint(w, "usage: migrate [-dry-run | -roles] [-rotate-signing-key [-revoke]] [-rotate-sealing-key]\n\nBrings the database of DATABASE_URL to the current schema.\n\n")
		flags.SetOutput(w)
		flags.PrintDefaults()
	}
	err := flags.Parse(args)
	if errors.Is(err, flag.ErrHelp) {
		usage(stdout)
		return o, 0, false
	}
	if err == nil && flags.NArg() > 0 {
		err = fmt.Errorf("unexpected argument %q: migrate takes flags only", flags.Arg(0))
	}
	if err != nil {
		fmt.Fprintln(stderr, err)
		usage(stderr)
		return o, 2, false
	}
	return o, 0, true
}

// runOnce prints the answer as JSON and returns the exit code. It returns 1 for an
// error and for a refused rehearsal.
func (m migration) runOnce(o options, stdout, stderr io.Writer) int {
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
