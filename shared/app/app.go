// Package app is the composition root: it connects the parts of each Lambda function and starts it.
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
	"github.com/flovyn/promises/shared/seal"
	"github.com/flovyn/promises/shared/secret"
	"github.com/flovyn/promises/shared/telemetry"
	"github.com/flovyn/promises/shared/webhook"
)

// callTimeout bounds a call's wait for the database. A caller that is answered 503
// can repeat the call within API Gateway's limit of 30 s.
const callTimeout = 4 * time.Second

// firstCollection is the time from the start to a forced garbage collection. Go's
// two-minute collection starts only after a first one, at 4 MiB. An idle function
// takes half an hour or more to reach that size, and looks as if it leaked memory.
const firstCollection = 10 * time.Second

// A service holds the parts that every function uses.
type service struct {
	conf    config.Config
	log     *slog.Logger
	metrics *telemetry.Metrics
	store   *repository.Repository
	tokens  *auth.Verifier
	signing auth.Source[auth.SigningKey] // nil if no tokens are issued
	sealing *auth.Cached[*seal.Keys]
	urlKey  *auth.Cached[webhook.URLKey]
	// stopping is closed by the first SIGTERM.
	stopping <-chan struct{}
}

// Run serves an operation until Lambda ends the process. If the configuration is
// invalid, Run logs the cause and exits at once. The first call that needs the
// database connects to it.
func Run(op gateway.Operation) {
	start(func(s service) lambda.Handler { return s.handler(op) })
}

func (s service) handler(op gateway.Operation) *gateway.Handler {
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
}

// RunAuthorize serves the HTTP API's authorizer until Lambda ends the process. It
// starts as Run does.
func RunAuthorize() {
	start(func(s service) lambda.Handler { return s.authorizer() })
}

// signer returns nil if there is no signing key.
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

// loadTokenKeys sets the verifier of tokens and, if the configuration has a signing
// key, its source. A secret in Secrets Manager is read when it is first needed. A
// key in the configuration itself is checked at once.
func (s *service) loadTokenKeys() error {
	legacy := auth.Always(auth.VerificationKeys{})
	switch text := s.conf.TokenKeys; {
	case secret.IsARN(text):
		legacy = auth.NewCached("legacy token secrets", parsed(text, auth.ParseLegacySecrets), time.Now, s.log).Get
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

// parsed returns a function that reads and parses the secret with the given ARN.
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

// startWith works as start, with a pool of up to the given number of connections; zero means database.PoolSize.
func startWith(connections int, handler func(service) lambda.Handler) {
	if os.Getenv("GOMAXPROCS") == "" {
		// A function handles one call at a time, which has nothing to do in parallel.
		// A second thread would be woken for each step, and cost a sixth more CPU.
		runtime.GOMAXPROCS(1)
	}
	time.AfterFunc(firstCollection, runtime.GC)
	stopping := terminated()
	conf, err := config.Load()
	log := telemetry.NewLogger(os.Stderr, conf.LogLevel)
	slog.SetDefault(log) // for aws-lambda-go's lines
	telemetry.QuietFunctionErrors()
	if err == nil {
		var pool *pgxpool.Pool
		if pool, err = openPool(conf, connections); err == nil {
			var s service
			if s, err = newService(conf, log, pool); err == nil {
				s.stopping = stopping
				lambda.Start(handler(s))
			}
		}
	}
	log.Error("cannot start", "cause", err.Error())
	os.Exit(1)
}

// newService returns a service that never stops.
func newService(conf config.Config, log *slog.Logger, pool *pgxpool.Pool) (service, error) {
	s := service{
		conf:    conf,
		log:     log,
		metrics: telemetry.NewMetrics(os.Stderr, lambdacontext.FunctionName),
		store:   repository.New(pool),
	}
	err := s.loadTokenKeys()
	if err == nil {
		s.sealing, err = loadSealingKeys(conf, log)
	}
	if err == nil {
		s.urlKey, err = loadSourceURLKey(conf, log)
	}
	return s, err
}

// terminated returns a channel that the first SIGTERM closes. From then on SIGTERM
// does not end the process. The local runner sends SIGTERM before it ends its
// functions, so that waiting calls can be answered. Lambda sends it only to functions
// with extensions.
func terminated() <-chan struct{} {
	ctx, _ := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	return ctx.Done()
}

// openPool returns a connection pool for the configured database.
func openPool(conf config.Config, connections int) (*pgxpool.Pool, error) {
	o := database.Options{URL: conf.DatabaseURL, Connections: connections, IAMAuth: conf.IAMAuth, QueryExecMode: conf.QueryExecMode}
	if conf.PasswordSecret != "" {
		o.Secret = func(ctx context.Context) (string, error) { return secret.Get(ctx, conf.PasswordSecret) }
	}
	return database.NewPool(o)
}
