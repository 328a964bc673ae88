// Command bench compares the cost of the service's operations with a lower limit: the bare UPDATE of one row.
//
//	go run ./infra/bench                       # the table, at 1, 8 and 32 clients; also --json, --svg FILE
//	go run ./infra/bench --growth              # the same settlements in small and large databases and workflows
//	go run ./infra/bench --trip 1ms            # the table, with a longer round trip to the database
//	go run ./infra/bench --load 30m            # steady load over HTTP: memory, connections, goroutines; then overload
//	go run ./infra/bench --neighbour 2m        # an honest tenant, alone and beside a hostile one
//	go run ./infra/bench --deliveries          # from a settlement to its waiter: by a delivery, and by a wait
//	go run ./infra/bench --webhooks            # a settlement by a webhook, beside one by key
//
// It starts its own Postgres on loopback, as the local runner does, and removes the data folder at the end. With --growth,
// Postgres has a quarter of the machine's memory as shared buffers.
// Operations that are compared take turns within one run. The table goes to standard output, progress to standard error.
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

	deliveries   bool
	rate         int
	deliveryTime time.Duration
	backlog      int

	webhooks bool

	roundTrip time.Duration
	only      *regexp.Regexp
}

// callsHTTP returns the number of calls of each operation through the local runner. It is a third of calls, because such a
// call takes several times as long.
func (o options) callsHTTP() int { return (o.calls + 2) / 3 }

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if len(os.Args) == 3 && os.Args[1] == emptyServiceArgument {
		fail(runEmptyService(ctx, os.Args[2]))
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
	flags.IntVar(&o.promises, "promises", 0, "number of promises in the database at the start (default 400000); --growth leaves out larger databases (default 5000000), --load always has 100000")
	flags.IntVar(&o.calls, "calls", 23_000, "number of calls of each operation, for each number of clients; a third of it through the local runner; --growth and --load ignore it")
	clients := flags.String("clients", "", "numbers of concurrent callers, separated by commas (default 1,8,32; for --growth 8)")
	flags.StringVar(&o.data, "data", "", "`folder` for the database, which is removed at the end (default: the folder for temporary files)")
	flags.BoolVar(&o.json, "json", false, "write JSON instead of a table")
	flags.StringVar(&o.svg, "svg", "", "SVG `file` for a chart of the ratios to the limit")
	flags.BoolVar(&o.growth, "growth", false, "settle in databases of 10 thousand to 5 million promises, and in workflows of 1 to 100,000; Postgres has a quarter of the memory as shared buffers")
	flags.DurationVar(&o.load, "load", 0, "`duration` of a load over HTTP at 70 % of the maximum rate; an overload follows")
	flags.DurationVar(&o.neighbour, "neighbour", 0, "`duration` of the work of an honest tenant, half of it beside a hostile tenant, in turns")
	flags.BoolVar(&o.deliveries, "deliveries", false, "measure deliveries to a receiver on this machine, and waits beside them")
	flags.IntVar(&o.rate, "rate", 50, "number of settlements a second, with --deliveries")
	flags.DurationVar(&o.deliveryTime, "time", 20*time.Second, "`duration` of the settlements whose waiters get a delivery, with --deliveries; as long for waits")
	flags.IntVar(&o.backlog, "backlog", 5000, "number of deliveries that are due at once, with --deliveries")
	flags.BoolVar(&o.webhooks, "webhooks", false, "measure webhooks through the local runner, and settlements by key beside them")
	only := flags.String("only", "", "`regular expression`: measure only operations with a matching name")
	flags.BoolVar(&o.http, "http", true, "also measure the local runner")
	flags.DurationVar(&o.roundTrip, "trip", 0, "`duration` added to each round trip to the database, as over a network; excludes the local runner")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	var err error
	if o.only, err = regexp.Compile(*only); err != nil {
		return o, err
	}
	most, usual := 180, "1,8,32" // Postgres allows 200 connections
	if o.growth {
		most, usual = most/len(sizes)-1, "8"
		o.promises = cmp.Or(o.promises, 5_000_000)
	}
	o.promises = cmp.Or(o.promises, 400_000)
	for _, text := range strings.Split(cmp.Or(*clients, usual), ",") {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || n > most {
			return o, fmt.Errorf("--clients %s: must be numbers from 1 to %d, separated by commas", *clients, most)
		}
		o.clients = append(o.clients, n)
	}
	if o.growth && o.promises < sizes[0].promises {
		return o, fmt.Errorf("--promises %d: must be at least %d, the size of the smallest database", o.promises, sizes[0].promises)
	}
	if err := o.checkDurations(); err != nil {
		return o, err
	}
	o.http = o.http && o.roundTrip == 0
	needed := o.promises / settledOneIn
	for _, clients := range o.clients {
		needed += settlingOperations * (o.calls + uncountedCalls(clients))
		if o.http {
			needed += settlingHTTPOperations * (o.callsHTTP() + uncountedCalls(clients))
		}
	}
	if !o.growth && !o.deliveries && !o.webhooks && o.load == 0 && o.neighbour == 0 && o.promises < needed {
		return o, fmt.Errorf("--promises %d: must be at least %d for this number of calls, because each promise is settled once", o.promises, needed)
	}
	return o, nil
}

func (o options) checkDurations() error {
	for name, d := range map[string]time.Duration{"load": o.load, "neighbour": o.neighbour} {
		if d != 0 && d < time.Second {
			return fmt.Errorf("--%s %v: must be at least 1s", name, d)
		}
	}
	if o.rate < 1 || o.rate > 1000 || o.deliveryTime < time.Second || o.backlog < 1 {
		return errors.New("--rate must be 1 to 1000, --time at least 1s, and --backlog at least 1")
	}
	return nil
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

// A result is the report of a run. It is printed as a table, or encoded as JSON.
type result interface{ table(io.Writer) error }

func measure(ctx context.Context, c *cluster, o options, screen *progress) (result, error) {
	if o.load > 0 {
		return measureLoad(ctx, c, o, screen)
	}
	if o.neighbour > 0 {
		return measureNeighbour(ctx, c, o, screen)
	}
	if o.deliveries {
		return measureDeliveries(ctx, c, o, screen)
	}
	if o.webhooks {
		return measureWebhooks(ctx, c, o, screen)
	}
	measureRows := measureTable
	if o.growth {
		measureRows = measureGrowth
	}
	rows, err := measureRows(ctx, c, o, screen)
	if err != nil {
		return nil, err
	}
	computeRatios(rows)
	if o.svg != "" {
		err = draw(rows, o.svg)
	}
	return report{Machine: thisMachine(ctx, c), Rows: rows}, err
}
