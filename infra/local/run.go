package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/flovyn/promises/infra/local/httpapi"
	"github.com/flovyn/promises/infra/local/invokeapi"
	"github.com/flovyn/promises/infra/local/lambda"
	"github.com/flovyn/promises/shared/config"
	"github.com/flovyn/promises/shared/localpg"
	"github.com/flovyn/promises/shared/routes"
)

const tenant = "demo"

// run serves until ctx ends, or something fails, and has then stopped and
// removed everything but the data.
func run(ctx context.Context, o options) (err error) {
	begun := time.Now()
	screen := &terminal{out: o.stdout, err: o.stderr}

	if o.readyFile != "" {
		if err := os.Remove(o.readyFile); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
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

	binaries, err := os.MkdirTemp("", "promises-functions-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(binaries)

	databaseURL := o.databaseURL
	preparing, both := errgroup.WithContext(ctx)
	preparing.Go(func() error { return build(both, binaries) })
	if databaseURL == "" {
		var server *localpg.Server
		defer func() {
			if server != nil {
				err = errors.Join(err, server.Stop())
			}
		}()
		preparing.Go(func() (err error) {
			server, err = startPostgres(both, o)
			if err == nil {
				databaseURL = server.URL()
			}
			return err
		})
	}
	if err := preparing.Wait(); err != nil {
		return err
	}

	service := lambda.New(functions(binaries, databaseURL), lambda.Options{
		Output: screen.functionOutput(),
		Report: screen.invocation,
	})
	defer service.Close()
	if err := prepareDatabase(ctx, service, databaseURL); err != nil {
		return err
	}

	api := newServer(httpapi.New(routes.HTTP, service))
	invoke := newServer(invokeapi.Handler{Service: service})
	serving, failed := errgroup.WithContext(ctx)
	serving.Go(func() error { return serve(failed, api, httpListener) })
	serving.Go(func() error { return serve(failed, invoke, lambdaListener) })

	r := ready{
		HTTPURL:     "http://" + httpListener.Addr().String(),
		LambdaURL:   "http://" + lambdaListener.Addr().String(),
		DatabaseURL: databaseURL,
		Tenant:      tenant,
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
			follow(failed, schedule, service, screen.functionOutput())
			return nil
		})
	}
	err = serving.Wait()
	screen.goodbye()
	return err
}

// follow invokes the function as its schedule says, at once to begin with,
// until ctx ends. What has been invoked by then is the service's to end.
func follow(ctx context.Context, schedule routes.Schedule, service *lambda.Service, log io.Writer) {
	tick := time.NewTicker(schedule.Every)
	defer tick.Stop()
	for {
		if _, err := service.InvokeEvent(schedule.Function, lambda.Request{}); err != nil {
			fmt.Fprintf(log, "[%s] not invoked by its schedule: %v\n", schedule.Function, err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func startPostgres(ctx context.Context, o options) (*localpg.Server, error) {
	dir := o.data
	if dir == "" {
		var err error
		if dir, err = localpg.DefaultDir(); err != nil {
			return nil, fmt.Errorf("%w (--data chooses another)", err)
		}
	}
	return localpg.Start(ctx, localpg.Options{Dir: dir, Fresh: o.fresh, Durable: true, Log: o.stderr})
}

// functions are those of the table, each with the configuration that this
// process was given, and the database in use.
func functions(binaries, databaseURL string) []lambda.Function {
	env := []string{"DATABASE_URL=" + databaseURL}
	for _, name := range config.Names {
		if value, ok := os.LookupEnv(name); ok && name != "DATABASE_URL" {
			env = append(env, name+"="+value)
		}
	}
	list := make([]lambda.Function, len(routes.Functions))
	for i, f := range routes.Functions {
		list[i] = lambda.Function{
			Name:     f.Name,
			Path:     filepath.Join(binaries, f.Name),
			Timeout:  f.Timeout,
			MemoryMB: f.MemoryMB,
			Env:      env,
		}
	}
	return list
}

// prepareDatabase migrates as a deployment does, by the migrate function, and
// makes the tenant.
func prepareDatabase(ctx context.Context, service *lambda.Service, databaseURL string) error {
	result, err := service.Invoke(ctx, "migrate", lambda.Request{})
	if err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	if result.ErrorType != "" {
		return fmt.Errorf("migrate: %s", describe(result.Payload))
	}
	db, err := pgx.Connect(ctx, databaseURL)
	if err != nil {
		return fmt.Errorf("make the tenant: %w", err)
	}
	defer db.Close(context.WithoutCancel(ctx)) //nolint:errcheck // nothing is pending
	if _, err := db.Exec(ctx, `INSERT INTO tenant (slug) VALUES ($1) ON CONFLICT (slug) DO NOTHING`, tenant); err != nil {
		return fmt.Errorf("make the tenant: %w", err)
	}
	return nil
}

// describe is a function error in words.
func describe(payload []byte) string {
	var e struct{ ErrorType, ErrorMessage string }
	if err := json.Unmarshal(payload, &e); err != nil {
		return string(payload)
	}
	return e.ErrorType + ": " + e.ErrorMessage
}

// ready tells scripts where everything is.
type ready struct {
	HTTPURL     string `json:"httpUrl"`
	LambdaURL   string `json:"lambdaUrl"`
	DatabaseURL string `json:"databaseUrl"` // holds a password
	Tenant      string `json:"tenant"`
}

// write writes the file whole, readable by its owner only.
func (r ready) write(path string) (err error) {
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	_, err = f.Write(append(b, '\n'))
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// serve serves until ctx ends, and gives requests under way a moment then.
func serve(ctx context.Context, s *http.Server, l net.Listener) error {
	const moment = 2 * time.Second
	stopped := make(chan struct{})
	defer context.AfterFunc(ctx, func() {
		defer close(stopped)
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), moment)
		defer cancel()
		if err := s.Shutdown(last); err != nil {
			s.Close()
		}
	})()
	if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	<-stopped
	return nil
}
