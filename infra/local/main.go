// Command local runs the whole service on this machine: Postgres, migrated; a
// tenant and a key of it; the functions, as the binaries that AWS runs, in
// environments that speak the Lambda Runtime API; before them the HTTP API and
// the Lambda Invoke API. Ctrl-C stops all of it and leaves the data.
//
//	go run ./infra/local [flags]
//
// With DATABASE_URL set it uses that database and starts none. It listens on
// loopback addresses only.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/flovyn/promises/shared/routes"
)

func main() {
	ctx, stop := context.WithCancel(context.Background())
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	if !signal.Ignored(syscall.SIGHUP) { // nohup
		signal.Notify(signals, syscall.SIGHUP)
	}
	go func() {
		select {
		case <-signals:
		case <-goRunEnds():
		}
		stop()
		time.Sleep(time.Second) // timeout(1) and its like send each signal twice
		signal.Reset()          // the next one ends us at once
	}()

	o, err := parseOptions(os.Args[1:], os.Getenv("DATABASE_URL"), os.Stderr)
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "local:", err)
		os.Exit(2)
	}
	if err := run(ctx, o); err != nil && ctx.Err() == nil {
		fmt.Fprintln(os.Stderr, "local:", err)
		os.Exit(1)
	}
}

// options are what the command line and the environment ask for.
type options struct {
	http, lambda string // addresses
	data         string // the folder of Postgres, and of what is kept with it
	fresh        bool
	readyFile    string
	corsOrigins  []string
	databaseURL  string // empty: a Postgres is started

	stdout, stderr io.Writer
}

func parseOptions(args []string, databaseURL string, stderr io.Writer) (options, error) {
	o := options{databaseURL: databaseURL, stdout: os.Stdout, stderr: stderr}
	flags := flag.NewFlagSet("local", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() {
		fmt.Fprint(stderr, "Runs the whole service on this machine.\nUsage: go run ./infra/local [flags], DATABASE_URL=... to use that database\n\n")
		flags.PrintDefaults()
	}
	flags.StringVar(&o.http, "http", "127.0.0.1:3000", "loopback `address` of the HTTP API; port 0 takes a free one")
	flags.StringVar(&o.lambda, "lambda", "127.0.0.1:3001", "loopback `address` of the Lambda Invoke API")
	flags.StringVar(&o.data, "data", "", "`folder` of the database and its keys (default: a private one, kept)")
	flags.BoolVar(&o.fresh, "fresh", false, "begin with a new, empty database and new keys")
	corsOrigins := flags.String("cors-origins", "", "web `origins` whose pages may call the HTTP API, separated by commas (default: none)")
	flags.StringVar(&o.readyFile, "ready-file", "", "`file` to write, as JSON, once everything answers; removed at the end")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return o, err
		}
		return o, errors.New("see --help")
	}
	if flags.NArg() > 0 {
		return o, fmt.Errorf("there are no arguments, only flags: %q (see --help)", flags.Arg(0))
	}
	if o.fresh && databaseURL != "" {
		return o, errors.New("--fresh would empty the database of DATABASE_URL, which is not ours: unset one of them")
	}
	if *corsOrigins != "" {
		o.corsOrigins = strings.Split(*corsOrigins, ",")
	}
	for _, origin := range o.corsOrigins {
		if !routes.IsOrigin(origin) {
			return o, fmt.Errorf("--cors-origins: %q is not a web origin; write https://HOST or http://HOST:PORT, separated by commas", origin)
		}
	}
	for name, address := range map[string]string{"--http": o.http, "--lambda": o.lambda} {
		if err := checkLoopback(address); err != nil {
			return o, fmt.Errorf("%s %s: %w", name, address, err)
		}
	}
	return o, nil
}

// checkLoopback refuses addresses that others could reach: the Invoke API runs
// functions for everybody who asks.
func checkLoopback(address string) error {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return errors.New("not an address; write 127.0.0.1:PORT")
	}
	if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return errors.New("not a loopback address; write 127.0.0.1:PORT")
	}
	return nil
}
