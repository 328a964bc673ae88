// Command local runs the whole service on this machine. It starts and migrates
// Postgres, creates a tenant with an API key, and runs the same function binaries
// as AWS, each speaking the Lambda Runtime API. In front of them it serves the
// HTTP API and the Lambda Invoke API. Ctrl-C stops everything and keeps the data.
//
//	go run ./infra/local [flags]
//
// If DATABASE_URL is set, it uses that database instead of starting one. It
// listens on loopback addresses only.
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
		case <-goRunEnded():
		}
		stop()
		time.Sleep(time.Second) // timeout(1) and similar tools send each signal twice
		signal.Reset()          // a further signal kills this process at once
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

// options are the settings from the command line and the environment.
type options struct {
	http, lambda string // addresses
	data         string // the folder of the Postgres cluster and of the secrets
	fresh        bool
	readyFile    string
	corsOrigins  []string
	databaseURL  string // empty: run starts a Postgres of its own

	stdout, stderr io.Writer
}

func parseOptions(args []string, databaseURL string, stderr io.Writer) (options, error) {
	o := options{databaseURL: databaseURL, stdout: os.Stdout, stderr: stderr}
	flags := flag.NewFlagSet("local", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() {
		fmt.Fprint(stderr, "Runs the whole service on this machine.\nUsage: go run ./infra/local [flags]\nSet DATABASE_URL to use an existing database.\n\n")
		flags.PrintDefaults()
	}
	flags.StringVar(&o.http, "http", "127.0.0.1:3000", "loopback `address` of the HTTP API; port 0 picks a free port")
	flags.StringVar(&o.lambda, "lambda", "127.0.0.1:3001", "loopback `address` of the Lambda Invoke API")
	flags.StringVar(&o.data, "data", "", "`folder` of the database and its keys (default: a private folder that is kept)")
	flags.BoolVar(&o.fresh, "fresh", false, "start with a new, empty database and new keys")
	corsOrigins := flags.String("cors-origins", "", "web `origins` whose pages may call the HTTP API, separated by commas (default: none)")
	flags.StringVar(&o.readyFile, "ready-file", "", "`file` to write, as JSON, once everything answers; removed when the runner stops")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return o, err
		}
		return o, errors.New("see --help")
	}
	if flags.NArg() > 0 {
		return o, fmt.Errorf("%q is not a flag, and there are no other arguments: see --help", flags.Arg(0))
	}
	if o.fresh && databaseURL != "" {
		return o, errors.New("--fresh would empty the database of DATABASE_URL, which the runner did not create: drop --fresh or unset DATABASE_URL")
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

// checkLoopback rejects addresses that other machines could reach, because the
// Invoke API runs functions without asking for credentials.
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
