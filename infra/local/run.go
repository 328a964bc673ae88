package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/flovyn/promises/infra/build"
	"github.com/flovyn/promises/infra/local/httpapi"
	"github.com/flovyn/promises/infra/local/invokeapi"
	"github.com/flovyn/promises/infra/local/lambda"
	"github.com/flovyn/promises/infra/local/reference"
	"github.com/flovyn/promises/shared/localpg"
	"github.com/flovyn/promises/shared/openapi"
	"github.com/flovyn/promises/shared/routes"
)

const tenant = "demo"

// run serves until ctx ends or something fails. Before it returns, it stops and
// removes everything except the data.
func run(ctx context.Context, o options) (err error) {
	begun := time.Now()
	screen := &terminal{out: o.stdout, err: o.stderr}

	if err := os.Remove(o.readyFile); o.readyFile != "" && err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	httpListener, err := net.Listen("tcp", o.http)
	if err != nil {
		return err
	}
	defer httpListener.Close()
	lambdaListener, err := net.Listen("tcp", o.lambda)
	if err != nil {
		return err
	}
	defer lambdaListener.Close()

	p, err := prepare(ctx, o, screen)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.cleanUp()) }()

	httpURL, lambdaURL := "http://"+httpListener.Addr().String(), "http://"+lambdaListener.Addr().String()
	service, apiKey, err := launch(ctx, o, p, httpURL, lambdaURL, screen)
	if err != nil {
		return err
	}
	defer service.Close()

	api, invoke := handlers(o, service)
	serving, failed := errgroup.WithContext(ctx)
	serving.Go(func() error { return serve(failed, newServer(api), limitConnections(httpListener), service) })
	serving.Go(func() error { return serve(failed, newServer(invoke), limitConnections(lambdaListener), service) })
	context.AfterFunc(failed, screen.stopping)

	r := ready{
		HTTPURL:     httpURL,
		LambdaURL:   lambdaURL,
		DatabaseURL: p.databaseURL,
		Tenant:      tenant,
		APIKey:      apiKey,
	}
	if o.readyFile != "" {
		if err := r.write(o.readyFile); err != nil {
			return err
		}
		defer os.Remove(o.readyFile)
	}
	screen.welcome(r, time.Since(begun))
	for _, schedule := range routes.Schedules {
		serving.Go(func() error {
			runSchedule(failed, schedule, service, screen.functionOutput())
			return nil
		})
	}
	return serving.Wait()
}

// handlers returns the HTTP API with its reference, and the Lambda Invoke API of the service.
func handlers(o options, service *lambda.Service) (api, invoke http.Handler) {
	h := httpapi.New(routes.HTTP, routes.Authorizers, service)
	h.CORSOrigins = o.corsOrigins
	return reference.With(openapi.YAML, h), rejectBrowserPages(invokeapi.Handler{Service: service, Function: routes.PlainName, Denied: routes.HTTPAlias})
}

// resources are the binaries and the database that the functions run with.
type resources struct {
	binaries    string // folder
	data        string // folder; empty if DATABASE_URL names the database
	databaseURL string
	cleanUp     func() error // stops Postgres and removes the binaries; the data stays
}

// prepare builds the functions and starts Postgres. If it fails, it cleans up first.
func prepare(ctx context.Context, o options, screen *terminal) (p resources, err error) {
	if p.data, err = dataDir(o); err != nil {
		return resources{}, err
	}
	remove := func() {}
	var server *localpg.Server
	p.cleanUp = func() (err error) {
		if server != nil {
			err = server.Stop()
		}
		remove()
		return err
	}
	if p.binaries, remove, err = build.TemporaryFolder(); err != nil {
		return resources{}, err
	}
	screen.building()
	preparing, both := errgroup.WithContext(ctx)
	preparing.Go(func() error { return build.Functions(both, p.binaries, build.Target{}) })
	if p.databaseURL = o.databaseURL; p.databaseURL == "" {
		preparing.Go(func() (err error) {
			server, err = localpg.Start(both, localpg.Options{Dir: p.data, Fresh: o.fresh, Durable: true, Log: o.stderr})
			if err == nil {
				p.databaseURL = server.URL()
			}
			return err
		})
	}
	if err := preparing.Wait(); err != nil {
		return resources{}, errors.Join(err, p.cleanUp())
	}
	return p, nil
}

// launch starts the functions' service, migrates the database as a deployment
// does, and ensures that the tenant and its API key exist. If it fails, it closes
// the service first.
func launch(ctx context.Context, o options, p resources, httpURL, lambdaURL string, screen *terminal) (
	service *lambda.Service, apiKey string, err error,
) {
	kept := secrets(p.data) // the Postgres server has locked the folder
	if o.fresh {
		if err := kept.remove(); err != nil {
			return nil, "", err
		}
	}
	signingKey, err := kept.signingKey()
	if err != nil {
		return nil, "", err
	}
	sealingKeys, err := kept.sealingKeys()
	if err != nil {
		return nil, "", err
	}
	sourceURLKey, err := kept.sourceURLKey()
	if err != nil {
		return nil, "", err
	}
	if p.data == "" {
		screen.temporaryKeys()
	}
	tokenKeys, err := kept.tokenKeys()
	if err != nil {
		return nil, "", err
	}
	service = lambda.New(functions(p.binaries, map[string]string{
		"DATABASE_URL":        p.databaseURL,
		"DELIVER_TO_LOOPBACK": "true",
		"PUBLIC_URL":          cmp.Or(os.Getenv("PUBLIC_URL"), httpURL),
		"SEALING_KEYS":        sealingKeys,
		"SIGNING_KEY":         signingKey,
		"SOURCE_URL_KEY":      sourceURLKey,
		"TOKEN_KEYS":          tokenKeys,
		lambdaEndpoint:        lambdaURL,
	}), lambda.Options{
		MaxEnvironments: maxEnvironments,
		Output:          screen.functionOutput(),
		Report:          screen.invocation,
	})
	if err = call(ctx, service, "migrate", struct{}{}, nil); err == nil {
		apiKey, err = kept.apiKey(ctx, service)
	}
	if err != nil {
		service.Close()
		return nil, "", err
	}
	return service, apiKey, nil
}

// runSchedule invokes the schedule's function at once and then at each interval,
// until ctx ends. It does not wait for the invocations; closing the service ends them.
func runSchedule(ctx context.Context, schedule routes.Schedule, service *lambda.Service, log io.Writer) {
	tick := time.NewTicker(schedule.Every)
	defer tick.Stop()
	for {
		if _, err := service.InvokeEvent(schedule.Function, lambda.Request{}); err != nil {
			fmt.Fprintf(log, "[%s] the schedule could not invoke it: %v\n", schedule.Function, err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// dataDir returns the folder of the Postgres to start, or empty if DATABASE_URL
// names a database.
func dataDir(o options) (string, error) {
	switch {
	case o.databaseURL != "":
		return "", nil
	case o.data != "":
		return o.data, nil
	}
	dir, err := localpg.DefaultDir()
	if err != nil {
		return "", fmt.Errorf("%w (choose another folder with --data)", err)
	}
	return dir, nil
}

// ready is the content of the ready file, from which scripts read addresses and credentials.
type ready struct {
	HTTPURL     string `json:"httpUrl"`
	LambdaURL   string `json:"lambdaUrl"`
	DatabaseURL string `json:"databaseUrl"` // contains a password
	Tenant      string `json:"tenant"`
	APIKey      string `json:"apiKey"`
}

func (r ready) write(path string) error {
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return writeFile(path, append(b, '\n'))
}
