// Command bench measures what the service costs, beside the least that it could cost: the bare UPDATE of one row.
//
//	go run ./infra/bench                       # the table, at 1, 8 and 32 clients; also --json, --svg FILE
//	go run ./infra/bench --growth              # the same settlements in small and large databases and workflows
//	go run ./infra/bench --trip 1ms            # the table, with the database so far away
//	go run ./infra/bench --load 30m            # steady load over HTTP: memory, connections, goroutines; then overload
//	go run ./infra/bench --neighbour 2m        # an honest tenant, alone and beside a hostile one
//
// It starts a Postgres as the local runner does (for --growth with a quarter of the machine's memory to share), on a data folder
// of its own that it removes, and works on loopback only.
// What is compared is measured in turns within one run. The table goes to standard output, progress to standard error.
package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"
)

type options struct {
	promises  int
	calls     int
	clients   []int
	data      string
	json      bool
	svg       string
	growth    bool
	load      time.Duration
	neighbour time.Duration
	http      bool
	trip      time.Duration
	only      *regexp.Regexp
}

// callsHTTP is how often each operation is called through the local runner, which takes several times as long.
func (o options) callsHTTP() int { return (o.calls + 2) / 3 }

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if len(os.Args) == 3 && os.Args[1] == serveNothing {
		fail(nothing(ctx, os.Args[2]))
		return
	}
	o, err := parse(os.Args[1:])
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(2)
	}
	fail(run(ctx, o))
}

func fail(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func parse(args []string) (options, error) {
	var o options
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.IntVar(&o.promises, "promises", 0, "how many promises there are to begin with (default 400000); --growth leaves out databases of more (default 5000000), --load has 100000")
	flags.IntVar(&o.calls, "calls", 23_000, "how often each operation is called, for each number of clients; a third as often through the local runner; --growth and --load have their own")
	clients := flags.String("clients", "", "how many callers at once (default 1,8,32; for --growth 8)")
	flags.StringVar(&o.data, "data", "", "`folder` in which the database is made and removed (default: the temporary one)")
	flags.BoolVar(&o.json, "json", false, "write the rows as JSON, and no table")
	flags.StringVar(&o.svg, "svg", "", "`file` to draw the ratios to the limit into")
	flags.BoolVar(&o.growth, "growth", false, "settle in databases of 10 thousand to 5 million promises, and in workflows of 1 to 100,000, with a quarter of the memory for Postgres to share")
	flags.DurationVar(&o.load, "load", 0, "`how long` to load the service over HTTP at 70 % of what it can do; then it is overloaded")
	flags.DurationVar(&o.neighbour, "neighbour", 0, "`how long` an honest tenant works, half of it beside a hostile one, in turns")
	only := flags.String("only", "", "`regular expression`: measure only the operations whose names it matches")
	flags.BoolVar(&o.http, "http", true, "measure the local runner too")
	flags.DurationVar(&o.trip, "trip", 0, "`how long` a round trip to the database takes besides, as over a network; without the local runner")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	var err error
	if o.only, err = regexp.Compile(*only); err != nil {
		return o, err
	}
	most, usual := 180, "1,8,32" // of the 200 connections that there are
	if o.growth {
		most, usual = most/len(sizes)-1, "8"
		o.promises = cmp.Or(o.promises, 5_000_000)
	}
	o.promises = cmp.Or(o.promises, 400_000)
	for _, text := range strings.Split(cmp.Or(*clients, usual), ",") {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || n > most {
			return o, fmt.Errorf("--clients %s: numbers from 1 to %d", *clients, most)
		}
		o.clients = append(o.clients, n)
	}
	if o.growth && o.promises < sizes[0].promises {
		return o, fmt.Errorf("--promises %d are too few: the smallest database has %d", o.promises, sizes[0].promises)
	}
	for name, d := range map[string]time.Duration{"load": o.load, "neighbour": o.neighbour} {
		if d != 0 && d < time.Second {
			return o, fmt.Errorf("--%s %v: a second or more", name, d)
		}
	}
	o.http = o.http && o.trip == 0
	needed := o.promises / settledBefore
	for _, clients := range o.clients {
		needed += settlingHere * (o.calls + notCounted(clients))
		if o.http {
			needed += settlingHTTP * (o.callsHTTP() + notCounted(clients))
		}
	}
	if !o.growth && o.load == 0 && o.neighbour == 0 && o.promises < needed {
		return o, fmt.Errorf("--promises %d are too few: each is settled once, and this wants %d", o.promises, needed)
	}
	return o, nil
}

func run(ctx context.Context, o options) (err error) {
	screen := &progress{out: os.Stderr, begun: time.Now()}
	cluster, err := startPostgres(ctx, o, screen)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, cluster.stop()) }()
	measured, err := measure(ctx, cluster, o, screen)
	screen.done()
	if err != nil {
		return err
	}
	if o.json {
		e := json.NewEncoder(os.Stdout)
		e.SetIndent("", "  ")
		return e.Encode(measured)
	}
	return measured.table(os.Stdout)
}

// result is what a run has found out: JSON, or a table for a person.
type result interface{ table(io.Writer) error }

func measure(ctx context.Context, c *cluster, o options, screen *progress) (result, error) {
	if o.load > 0 {
		return measureLoad(ctx, c, o, screen)
	}
	if o.neighbour > 0 {
		return measureNeighbour(ctx, c, o, screen)
	}
	of := measureTable
	if o.growth {
		of = measureGrowth
	}
	rows, err := of(ctx, c, o, screen)
	if err != nil {
		return nil, err
	}
	relate(rows)
	if o.svg != "" {
		err = draw(rows, o.svg)
	}
	return report{Machine: thisMachine(ctx, c), Rows: rows}, err
}
