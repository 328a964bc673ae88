package dbtest

import (
	"errors"
	"io"
	"net"
	"net/url"
	"os"
	"strconv"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// Late is an address on loopback for a server that starts late. It refuses
// connections until Listen, accepts and says nothing until Serve, and passes
// connections on from then on.
type Late struct {
	Address string

	fd     int
	server atomic.Value // host:port, or nothing yet
}

// NewLate returns an address of its own, which no other process can take until
// the test ends.
func NewLate(t testing.TB) *Late {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	require.NoError(t, err)
	syscall.CloseOnExec(fd)
	t.Cleanup(func() { _ = syscall.Close(fd) })
	require.NoError(t, syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}))
	name, err := syscall.Getsockname(fd)
	require.NoError(t, err)
	return &Late{fd: fd, Address: net.JoinHostPort("127.0.0.1", strconv.Itoa(name.(*syscall.SockaddrInet4).Port))}
}

// URL returns the URL with this address in the place of its own.
func (l *Late) URL(t testing.TB, databaseURL string) string {
	t.Helper()
	u, err := url.Parse(databaseURL)
	require.NoError(t, err)
	u.Host = l.Address
	return u.String()
}

// Listen makes the address accept connections, and stay silent on them. It is
// called once.
func (l *Late) Listen(t testing.TB) {
	t.Helper()
	require.NoError(t, syscall.Listen(l.fd, 128))
	fd, err := syscall.Dup(l.fd)
	require.NoError(t, err)
	file := os.NewFile(uintptr(fd), l.Address)
	listener, err := net.FileListener(file)
	require.NoError(t, errors.Join(err, file.Close()))
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			if server, ok := l.server.Load().(string); ok {
				relay(client, server)
			}
		}
	}()
}

// Serve passes connections that come from now on to the server of the URL.
func (l *Late) Serve(t testing.TB, databaseURL string) {
	t.Helper()
	u, err := url.Parse(databaseURL)
	require.NoError(t, err)
	l.server.Store(u.Host)
}

func relay(client net.Conn, address string) {
	server, err := net.Dial("tcp", address)
	if err != nil {
		client.Close()
		return
	}
	pass := func(to, from net.Conn) {
		_, _ = io.Copy(to, from) // the end of either is the end of both
		to.Close()
	}
	go pass(server, client)
	go pass(client, server)
}
