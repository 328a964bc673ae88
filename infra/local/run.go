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
	data, err := dataDir(o)
	if err != nil {
		return err
	}
	preparing, both := errgroup.WithContext(ctx)
	preparing.Go(func() error { return build.Functions(both, binaries, build.Target{}) })
	if databaseURL == "" {
		var server *localpg.Server
		defer func() {
			if server != nil {
				err = errors.Join(err, server.Stop())
			}
		}()
		preparing.Go(func() (err error) {
			server, err = localpg.Start(both, localpg.Options{Dir: data, Fresh: o.fresh, Durable: true, Log: o.stderr})
			if err == nil {
				databaseURL = server.URL()
			}
			return err
		})
	}
	if err := preparing.Wait(); err != nil {
		return err
	}

	kept := secrets(data) // locked by the server
	if o.fresh {
		if err := kept.forget(); err != nil {
			return err
		}
	}
	tokenKeys, err := kept.tokenKeys()
	if err != nil {
		return err
	}
	httpURL := "http://" + httpListener.Addr().String()
	service := lambda.New(functions(binaries, map[string]string{
		"DATABASE_URL": databaseURL,
		"PUBLIC_URL":   cmp.Or(os.Getenv("PUBLIC_URL"), httpURL),
		"TOKEN_KEYS":   tokenKeys,
	}), lambda.Options{
		Output: screen.functionOutput(),
		Report: screen.invocation,
	})
	defer service.Close()
	if err := call(ctx, service, "migrate", struct{}{}, nil); err != nil { // as a deployment does
		return err
	}
	apiKey, err := kept.apiKey(ctx, service)
	if err != nil {
		return err
	}

	api := newServer(httpapi.New(routes.HTTP, routes.Authorizers, service))
	invoke := newServer(notFromPages(invokeapi.Handler{Service: service, Function: routes.PlainName}))
	serving, failed := errgroup.WithContext(ctx)
	serving.Go(func() error { return serve(failed, api, httpListener) })
	serving.Go(func() error { return serve(failed, invoke, lambdaListener) })

	r := ready{
		HTTPURL:     httpURL,
		LambdaURL:   "http://" + lambdaListener.Addr().String(),
		DatabaseURL: databaseURL,
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

// dataDir is the folder of the Postgres that is to be started; empty where none
// is.
func dataDir(o options) (string, error) {
	switch {
	case o.databaseURL != "":
		return "", nil
	case o.data != "":
		return o.data, nil
	}
	dir, err := localpg.DefaultDir()
	if err != nil {
		return "", fmt.Errorf("%w (--data chooses another)", err)
	}
	return dir, nil
}

// functions are those of the table, each with our own settings, and for the rest
// with those that this process was given.
func functions(binaries string, own map[string]string) []lambda.Function {
	var env []string
	for _, name := range config.Names {
		value, ok := own[name]
		if !ok {
			value, ok = os.LookupEnv(name)
		}
		if ok {
			env = append(env, name+"="+value)
		}
	}
	list := make([]lambda.Function, len(routes.Functions))
	for i, f := range routes.Functions {
		list[i] = lambda.Function{
			Name:     f.Name,
			Path:     build.Binary(binaries, f.Name),
			Timeout:  f.Timeout,
			MemoryMB: f.MemoryMB,
			// Two of them wait for promises, and leave room for those that settle.
			Concurrency: 24,
			Env:         env,
		}
	}
	return list
}

// ready tells scripts where everything is.
type ready struct {
	HTTPURL     string `json:"httpUrl"`
	LambdaURL   string `json:"lambdaUrl"`
	DatabaseURL string `json:"databaseUrl"` // holds a password
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
