package main_test

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"
)

// A gate is a proxy between a function and Postgres. It kills the function at one statement: before Postgres gets the statement, or after Postgres
// has executed it and before the function gets the answer.
type gate struct {
	listener         net.Listener
	network, address string // of Postgres
	binary           string // of the function

	mu     sync.Mutex
	seen   int // statements since arm
	at     int // the statement of the kill; 0: none
	after  bool
	killed bool
}

// newGate returns a gate, and the URL of the database through it.
func newGate(t *testing.T, database, binary string) (*gate, string) {
	t.Helper()
	conf, err := pgx.ParseConfig(database)
	require.NoError(t, err)
	g := &gate{binary: binary}
	g.network, g.address = pgconn.NetworkAddress(conf.Host, conf.Port)
	g.listener, err = (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { g.listener.Close() })
	go func() {
		for {
			c, err := g.listener.Accept()
			if err != nil {
				return
			}
			go g.serve(c)
		}
	}()
	u, err := url.Parse(database)
	require.NoError(t, err)
	q := u.Query()
	q.Del("host")
	q.Del("port")
	q.Set("sslmode", "disable")
	u.RawQuery, u.Host = q.Encode(), g.listener.Addr().String()
	return g, u.String()
}

// arm lets the gate kill the function at the n-th statement from now on; 0: at none.
func (g *gate) arm(n int, after bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.seen, g.at, g.after, g.killed = 0, n, after, false
}

// hasKilled reports whether the gate has killed the function since arm.
func (g *gate) hasKilled() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.killed
}

// count counts a statement, and reports whether the function dies at it.
func (g *gate) count() (dies, after bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.seen++
	dies = g.at != 0 && g.seen == g.at
	g.killed = g.killed || dies
	return dies, g.after
}

// kill ends the processes of the test's own binary.
func (g *gate) kill() {
	links, _ := filepath.Glob("/proc/[0-9]*/exe")
	for _, link := range links {
		var pid int
		if target, err := os.Readlink(link); err == nil && target == g.binary {
			if _, err := fmt.Sscanf(link, "/proc/%d/exe", &pid); err == nil {
				_ = syscall.Kill(pid, syscall.SIGKILL) // it may have ended
			}
		}
	}
}

// serve copies the messages of one connection.
func (g *gate) serve(client net.Conn) {
	defer client.Close()
	server, err := net.Dial(g.network, g.address)
	if err != nil {
		return
	}
	defer server.Close()
	if !copyStartup(server, client) {
		return
	}
	var silent atomic.Bool // the function gets no more answers
	ready := make(chan struct{}, 1)
	go func() {
		defer client.Close()
		for {
			m, err := readMessage(server)
			if err != nil {
				return
			}
			if !silent.Load() {
				_, _ = client.Write(m) // a dead function reads nothing
			} else if m[0] == 'Z' { // ReadyForQuery: the statement has ended
				ready <- struct{}{}
				return
			}
		}
	}()
	for executes := false; ; {
		m, err := readMessage(client)
		if err != nil {
			return
		}
		executes = executes || m[0] == 'E' || m[0] == 'Q' // Execute, Query
		if executes && (m[0] == 'S' || m[0] == 'Q') {     // Sync
			executes = false
			if dies, after := g.count(); dies {
				if after {
					silent.Store(true)
					_, _ = server.Write(m)
					<-ready
				}
				g.kill()
				return
			}
		}
		if _, err := server.Write(m); err != nil {
			return
		}
	}
}

// copyStartup copies the first message, which has no type.
func copyStartup(server io.Writer, client io.Reader) bool {
	head := make([]byte, 4)
	if _, err := io.ReadFull(client, head); err != nil {
		return false
	}
	rest := make([]byte, binary.BigEndian.Uint32(head)-4)
	if _, err := io.ReadFull(client, rest); err != nil {
		return false
	}
	_, err := server.Write(append(head, rest...))
	return err == nil
}

func readMessage(r io.Reader) ([]byte, error) {
	head := make([]byte, 5)
	if _, err := io.ReadFull(r, head); err != nil {
		return nil, err
	}
	body := make([]byte, binary.BigEndian.Uint32(head[1:])-4)
	_, err := io.ReadFull(r, body)
	return append(head, body...), err
}
