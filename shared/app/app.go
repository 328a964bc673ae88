// Package app is the composition root: it makes a Lambda of an operation.
package app

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"syscall"
	"time"

	"github.com/aws/aws-lambda-go/lambda"
	"github.com/aws/aws-lambda-go/lambdacontext"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/flovyn/promises/shared/auth"
	"github.com/flovyn/promises/shared/config"
	"github.com/flovyn/promises/shared/database"
	"github.com/flovyn/promises/shared/gateway"
	"github.com/flovyn/promises/shared/repository"
	"github.com/flovyn/promises/shared/secret"
	"github.com/flovyn/promises/shared/telemetry"
)

// callTimeout leaves a caller who is answered 503 time to repeat the call
// before API Gateway's own 30 s are over.
const callTimeout = 4 * time.Second

// firstCollection is when garbage is collected for the first time, whatever there
// is of it. Go does so every two minutes, but not before a first time, which comes
// with 4 MiB: after half an hour or more where little is done, and until then
// memory grows as if something leaked.
const firstCollection = 10 * time.Second

// service is what every function is made of.
type service struct {
	conf    config.Config
	log     *slog.Logger
	metrics *telemetry.Metrics
	store   *repository.Repository
	tokens  *auth.Verifier
	signing auth.Source[auth.SigningKey] // nil: no tokens are made
	// stopping is closed by the first SIGTERM.
	stopping <-chan struct{}
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
			MaxWaits:      s.conf.MaxWaits,
			HTTPAlias:     s.conf.HTTPAlias,
			Signer:        s.signer(),
			PublicURL:     s.conf.PublicURL,
			Authenticate:  s.authorizer().Identify,
			Timeout:       callTimeout,
			Stopping:      s.stopping,
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

// signer returns nil if there is nothing to sign with.
func (s service) signer() func(context.Context) (gateway.SignToken, error) {
	if s.signing == nil {
		return nil
	}
	return func(ctx context.Context) (gateway.SignToken, error) {
		key, err := s.signing(ctx)
		return func(r gateway.TokenRequest) (string, error) {
			now := time.Now()
			return key.Sign(auth.Token{
				ID: uuid.New(), Tenant: r.Tenant, PromiseID: r.PromiseID, Verbs: r.Verbs, ExpiresAt: now.Add(r.TTL),
				APIKeyID: r.APIKeyID, RevokedAt: r.RevokedAt, RawBody: r.RawBody,
			}, now)
		}, err
	}
}

// keys makes what verifies tokens and, if the configuration has a signing key,
// what signs them. A secret is read when it is first needed. A key that stands in
// the configuration itself is checked at once.
func (s *service) keys() error {
	legacy := auth.Always(auth.VerificationKeys{})
	switch text := s.conf.TokenKeys; {
	case secret.IsARN(text):
		legacy = auth.NewCached("legacy token keys", parsed(text, auth.ParseLegacySecrets), time.Now, s.log).Get
	case text != "":
		keys, err := auth.ParseLegacySecrets(text)
		if err != nil {
			return fmt.Errorf("TOKEN_KEYS: %w", err)
		}
		legacy = auth.Always(keys)
	}
	s.tokens = auth.NewVerifier(s.store, legacy, time.Now, s.log)
	text := s.conf.SigningKey
	if text == "" {
		return nil
	}
	read := parsed(text, auth.ParseSigningKey)
	if !secret.IsARN(text) {
		key, err := auth.ParseSigningKey(text)
		if err != nil {
			return fmt.Errorf("SIGNING_KEY: %w", err)
		}
		read = auth.Always(key)
	}
	s.signing = s.tokens.Signing(auth.NewCached("signing key", read, time.Now, s.log))
	return nil
}

// parsed reads the secret of that ARN.
func parsed[T any](arn string, parse func(string) (T, error)) func(context.Context) (T, error) {
	return func(ctx context.Context) (none T, err error) {
		text, err := secret.Get(ctx, arn)
		if err != nil {
			return none, err
		}
		return parse(text)
	}
}

func (s service) authorizer() *auth.Authorizer {
	return auth.NewAuthorizer(s.store, s.tokens, time.Now, s.log)
}

func start(handler func(service) lambda.Handler) { startWith(0, handler) }

// startWith is start for a function that opens another number of connections than database.PoolSize.
func startWith(connections int, handler func(service) lambda.Handler) {
	if os.Getenv("GOMAXPROCS") == "" {
		// A call at a time has nothing to do in parallel; a second thread would be
		// woken for each step of it, and cost a sixth more CPU.
		runtime.GOMAXPROCS(1)
	}
	time.AfterFunc(firstCollection, runtime.GC)
	stopping := terminated()
	conf, err := config.Load()
	log := telemetry.NewLogger(os.Stderr, conf.LogLevel)
	slog.SetDefault(log) // what aws-lambda-go says goes there, too
	telemetry.QuietFunctionErrors()
	if err == nil {
		var pool *pgxpool.Pool
		if pool, err = openPool(conf, connections); err == nil {
			s := service{
				conf:    conf,
				log:     log,
				metrics: telemetry.NewMetrics(os.Stderr, lambdacontext.FunctionName),
				store:   repository.New(pool),

				stopping: stopping,
			}
			if err = s.keys(); err == nil {
				lambda.Start(handler(s))
			}
		}
	}
	log.Error("cannot start", "cause", err.Error())
	os.Exit(1)
}

// terminated returns a channel that the first SIGTERM closes; no SIGTERM ends
// the process any more. The local runner sends one before it ends its functions,
// so that they can answer. Lambda sends one only to functions with extensions.
func terminated() <-chan struct{} {
	ctx, _ := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	return ctx.Done()
}

// openPool says where the database of the configuration is.
func openPool(conf config.Config, connections int) (*pgxpool.Pool, error) {
	o := database.Options{URL: conf.DatabaseURL, Connections: connections, IAMAuth: conf.IAMAuth, QueryExecMode: conf.QueryExecMode}
	if conf.PasswordSecret != "" {
		o.Secret = func(ctx context.Context) (string, error) { return secret.Get(ctx, conf.PasswordSecret) }
	}
	return database.NewPool(o)
}
