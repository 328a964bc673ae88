// Package app is the composition root: it makes a Lambda of an operation.
package app

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	stdlog "log"
	"log/slog"
	"os"
	"time"

	"github.com/aws/aws-lambda-go/lambda"
	"github.com/aws/aws-lambda-go/lambdacontext"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/flovyn/promises/shared/auth"
	"github.com/flovyn/promises/shared/config"
	"github.com/flovyn/promises/shared/gateway"
	"github.com/flovyn/promises/shared/promise"
	"github.com/flovyn/promises/shared/repository"
	"github.com/flovyn/promises/shared/telemetry"
)

// callTimeout leaves a caller who is answered 503 time to repeat the call
// before API Gateway's own 30 s are over.
const callTimeout = 4 * time.Second

// service is what every function is made of.
type service struct {
	conf    config.Config
	log     *slog.Logger
	metrics *telemetry.Metrics
	store   *repository.Repository
	tokens  auth.Keys
}

// Run serves an operation until Lambda ends the process. A configuration that
// is unusable ends it at once, with the reason in the log. The database is
// connected to by the first call that needs it.
func Run(op gateway.Operation) {
	start(func(s service) lambda.Handler {
		return &gateway.Handler{
			Operation:     op,
			Store:         s.store,
			MaxValueBytes: s.conf.MaxValueBytes,
			SignToken:     s.signToken(),
			PublicURL:     s.conf.PublicURL,
			Authenticate:  s.authorizer().Identify,
			Timeout:       callTimeout,
			Log:           s.log,
			Metrics:       s.metrics,
		}
	})
}

// RunAuthorize serves the HTTP API's authorizer until Lambda ends the process;
// it starts as Run does.
func RunAuthorize() {
	start(func(s service) lambda.Handler { return s.authorizer() })
}

// signToken is nil where there is nothing to sign with.
func (s service) signToken() func(string, uuid.UUID, []promise.Verb, time.Duration) (string, error) {
	if s.conf.TokenKeys == "" {
		return nil
	}
	return func(tenant string, promiseID uuid.UUID, verbs []promise.Verb, ttl time.Duration) (string, error) {
		now := time.Now()
		return s.tokens.Sign(auth.Token{
			ID: uuid.New(), Tenant: tenant, PromiseID: promiseID, Verbs: verbs, ExpiresAt: now.Add(ttl),
		}, now)
	}
}

func (s service) authorizer() *auth.Authorizer {
	return auth.NewAuthorizer(s.store, s.tokens, time.Now, s.log)
}

func start(handler func(service) lambda.Handler) {
	conf, err := config.Load()
	log := telemetry.NewLogger(os.Stderr, conf.LogLevel)
	slog.SetDefault(log) // what aws-lambda-go says goes there, too
	stdlog.SetOutput(quiet{stdlog.Writer()})
	var tokens auth.Keys
	if err == nil && conf.TokenKeys != "" {
		if tokens, err = auth.ParseKeys(conf.TokenKeys); err != nil {
			err = fmt.Errorf("TOKEN_KEYS: %w", err)
		}
	}
	if err == nil {
		var pool *pgxpool.Pool
		if pool, err = openPool(conf); err == nil {
			lambda.Start(handler(service{
				conf:    conf,
				log:     log,
				metrics: telemetry.NewMetrics(os.Stderr, lambdacontext.FunctionName),
				store:   repository.New(pool),
				tokens:  tokens,
			}))
		}
	}
	log.Error("cannot start", "cause", err.Error())
	os.Exit(1)
}

// quiet keeps from the log what aws-lambda-go says of function errors: the whole
// of it, with names that the caller chose. Whoever made the error has logged it.
type quiet struct{ io.Writer }

func (q quiet) Write(line []byte) (int, error) {
	if bytes.HasPrefix(line, []byte(`{"errorMessage":`)) {
		return len(line), nil
	}
	return q.Writer.Write(line)
}

// openPool suits a process that answers one call at a time and may be frozen
// between two: more connections than one are only ever needed while a broken
// one is being given up, or by a sweep, which has two things to do at once.
// pgxpool looks whether one that has idled is still alive.
func openPool(conf config.Config) (*pgxpool.Pool, error) {
	c, err := pgxpool.ParseConfig(conf.DatabaseURL)
	if err != nil { // which may quote the URL, and with it the password
		return nil, errors.New("DATABASE_URL is neither a postgres:// URL nor keyword=value pairs that Postgres knows")
	}
	c.MaxConns = 3
	c.MaxConnIdleTime = 5 * time.Minute
	c.ConnConfig.ConnectTimeout = 2 * time.Second
	c.ConnConfig.DefaultQueryExecMode = conf.QueryExecMode
	return pgxpool.NewWithConfig(context.Background(), c)
}
