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

// A Late is a loopback address of a server that starts late. It refuses connections
// until Listen, accepts them without an answer until Serve, and forwards them from
// then on.
type Late struct {
	Address string

	fd     int
	server atomic.Value // host:port; empty until Serve
}

// NewLate returns a new address. No other process can bind it until the test ends.
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

// URL returns the URL with its address replaced by this one.
func (l *Late) URL(t testing.TB, databaseURL string) string {
	t.Helper()
	u, err := url.Parse(databaseURL)
	require.NoError(t, err)
	u.Host = l.Address
	return u.String()
}

// Listen makes the address accept connections. It may be called only once.
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

// Serve forwards each later connection to the server of the URL.
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
		_, _ = io.Copy(to, from) // if one side ends, the other is closed
		to.Close()
	}
	go pass(server, client)
	go pass(client, server)
}
