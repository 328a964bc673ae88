package main

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/Shopify/toxiproxy/v2"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/localpg"
)

// A database is a Postgres server that can be stopped, started and killed, behind a proxy with a fixed address.
type database struct {
	data   string
	server *localpg.Server
	proxy  *toxiproxy.Proxy
	url    string // the URL through the proxy
}

func startDatabase(t *testing.T) *database {
	t.Helper()
	d := &database{data: filepath.Join(tempFolder(t), "data")}
	require.NoError(t, d.start(t.Context()))
	t.Cleanup(func() { d.server.Stop() }) //nolint:errcheck // the test has ended
	u, err := url.Parse(d.server.URL())
	require.NoError(t, err)
	server := toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop())
	d.proxy = toxiproxy.NewProxy(server, "postgres", stableAddress(t), u.Host)
	require.NoError(t, d.proxy.Start())
	t.Cleanup(d.proxy.Stop)
	u.Host = d.proxy.Listen
	d.url = u.String()
	return d
}

// start starts the server on its data. Its port is new each time, and the proxy forwards to it.
func (d *database) start(ctx context.Context) (err error) {
	d.server, err = localpg.Start(ctx, localpg.Options{Dir: d.data, Durable: true})
	if err != nil || d.proxy == nil {
		return err
	}
	u, err := url.Parse(d.server.URL())
	if err != nil {
		return err
	}
	for range 500 { // another connection may have taken the proxy's port meanwhile
		err = d.proxy.Update(&toxiproxy.Proxy{Listen: d.proxy.Listen, Upstream: u.Host, Enabled: true})
		if !errors.Is(err, syscall.EADDRINUSE) {
			return err
		}
		time.Sleep(20 * time.Millisecond)
	}
	return err
}

// A faultInjector causes faults until ctx ends and counts them. Before it returns, it restores the normal state.
type faultInjector func(ctx context.Context, t *testing.T, r *runner, d *database, faultCount *atomic.Int64)

func noFault(context.Context, *testing.T, *runner, *database, *atomic.Int64) {}

// pause waits for a random time between from and to. It returns false if ctx ends first.
func pause(ctx context.Context, from, to time.Duration) bool {
	select {
	case <-time.After(from + rand.N(to-from)):
		return true
	case <-ctx.Done():
		return false
	}
}

// killFunctions kills the processes of functions.
func killFunctions(ctx context.Context, _ *testing.T, r *runner, _ *database, faultCount *atomic.Int64) {
	for pause(ctx, 10*time.Millisecond, 50*time.Millisecond) {
		if pids := r.functionPIDs(); len(pids) > 0 {
			if syscall.Kill(pids[rand.IntN(len(pids))], syscall.SIGKILL) == nil {
				faultCount.Add(1)
			}
		}
	}
}

// stopDatabase alternately kills the server and shuts it down, and starts it again.
func stopDatabase(ctx context.Context, t *testing.T, _ *runner, d *database, faultCount *atomic.Int64) {
	for pause(ctx, 300*time.Millisecond, 1500*time.Millisecond) {
		killed := faultCount.Load()%2 == 0
		if killed {
			pid, err := postmaster(d.data)
			if err == nil {
				err = syscall.Kill(pid, syscall.SIGQUIT)
			}
			if err != nil {
				t.Errorf("kill the database: %v", err)
				return
			}
		}
		if err := d.server.Stop(); err != nil && !killed {
			t.Errorf("stop the database: %v", err)
			return
		}
		pause(ctx, 0, 200*time.Millisecond)
		if err := d.start(context.WithoutCancel(ctx)); err != nil {
			t.Errorf("start the database: %v", err)
			return
		}
		faultCount.Add(1)
	}
}

// cutConnections slows down or cuts the connections between the functions and the database, at any byte of a message.
func cutConnections(ctx context.Context, t *testing.T, _ *runner, d *database, faultCount *atomic.Int64) {
	for pause(ctx, 20*time.Millisecond, 100*time.Millisecond) {
		stream := []string{"upstream", "downstream"}[rand.IntN(2)]
		toxic, duration := "", 10*time.Millisecond
		switch rand.IntN(5) {
		case 0:
			toxic = `"type":"reset_peer","attributes":{"timeout":` + strconv.Itoa(rand.IntN(5)) + `}`
		case 1:
			toxic, duration = `"type":"limit_data","attributes":{"bytes":`+strconv.Itoa(rand.IntN(4000))+`}`, 50*time.Millisecond
		case 2:
			toxic, duration = `"type":"timeout","attributes":{"timeout":20}`, 30*time.Millisecond
		case 3:
			toxic, duration = `"type":"latency","attributes":{"latency":20,"jitter":20}`, 100*time.Millisecond
		case 4:
			toxic, duration = `"type":"slicer","attributes":{"average_size":40,"size_variation":20,"delay":200}`, 50*time.Millisecond
		}
		wrapper, err := d.proxy.Toxics.AddToxicJson(strings.NewReader(`{"stream":"` + stream + `",` + toxic + `}`))
		if err != nil {
			t.Errorf("disturb the network: %v", err)
			return
		}
		pause(ctx, duration, 2*duration)
		if err := d.proxy.Toxics.RemoveToxic(context.WithoutCancel(ctx), wrapper.Name); err != nil {
			t.Errorf("restore the network: %v", err)
			return
		}
		faultCount.Add(1)
	}
}
