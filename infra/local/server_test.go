package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/infra/local/httpapi"
	"github.com/flovyn/promises/infra/local/lambda"
	"github.com/flovyn/promises/shared/routes"
)

// listening starts a server of h with the runner's settings.
func listening(t *testing.T, h http.Handler) *httptest.Server {
	t.Helper()
	s := httptest.NewUnstartedServer(nil)
	s.Config = newServer(h)
	s.Start()
	t.Cleanup(s.Close)
	return s
}

// dial opens a connection and sends the text.
func dial(t *testing.T, s *httptest.Server, text string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", s.Listener.Addr().String())
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	_, err = io.WriteString(conn, text)
	require.NoError(t, err)
	return conn
}

// A browser page is refused before its request's body has arrived, so that the body cannot fill the memory.
func TestBrowserPageIsRefusedBeforeItsBody(t *testing.T) {
	t.Parallel()
	s := listening(t, rejectBrowserPages(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("called") })))
	conn := dial(t, s, "POST /2015-03-31/functions/resolve/invocations HTTP/1.1\r\nHost: 127.0.0.1\r\n"+
		"Origin: https://evil.example\r\nContent-Length: 10000000\r\n\r\n"+strings.Repeat("x", 1<<20))
	answer := make([]byte, len("HTTP/1.1 403 Forbidden"))
	require.NoError(t, conn.SetReadDeadline(time.Now().Add(time.Minute)))
	_, err := io.ReadFull(conn, answer)
	require.NoError(t, err)
	require.Equal(t, "HTTP/1.1 403 Forbidden", string(answer))
}

// An invoker is a function that implements httpapi.Invoker.
type invoker func(function string) lambda.Result

func (i invoker) Invoke(_ context.Context, function string, _ lambda.Request) (lambda.Result, error) {
	return i(function), nil
}

// A request without a valid credential is refused before its body has arrived.
func TestInvalidCredentialIsRefusedBeforeTheBody(t *testing.T) {
	t.Parallel()
	s := listening(t, httpapi.New(routes.HTTP, routes.Authorizers, invoker(func(function string) lambda.Result {
		assert.Equal(t, "authorize", function)
		return lambda.Result{Payload: []byte(`{"isAuthorized":false}`)}
	})))
	for name, c := range map[string]struct{ credential, want string }{
		"no credential":         {"", "401 Unauthorized"},
		"an invalid credential": {"Authorization: Bearer x\r\n", "403 Forbidden"},
	} {
		t.Run(name, func(t *testing.T) {
			conn := dial(t, s, "POST /api/tenants/demo/promises HTTP/1.1\r\nHost: 127.0.0.1\r\n"+c.credential+"Content-Length: 10000000\r\n\r\n{")
			answer := make([]byte, len("HTTP/1.1 ")+len(c.want))
			require.NoError(t, conn.SetReadDeadline(time.Now().Add(time.Minute)))
			_, err := io.ReadFull(conn, answer)
			require.NoError(t, err)
			require.Equal(t, "HTTP/1.1 "+c.want, string(answer))
		})
	}
}

// If a client that expects 100 Continue is refused, the server closes the connection. The client may never send the body, and the server
// would read the next request as that body.
func TestRefusedClientExpectsContinue_ConnectionIsClosed(t *testing.T) {
	t.Parallel()
	s := listening(t, httpapi.New(routes.HTTP, routes.Authorizers, invoker(func(string) lambda.Result {
		return lambda.Result{Payload: []byte(`{"isAuthorized":false}`)}
	})))
	conn := dial(t, s, "POST /api/tenants/demo/promises HTTP/1.1\r\nHost: 127.0.0.1\r\nExpect: 100-continue\r\nContent-Length: 10\r\n\r\n")
	require.NoError(t, conn.SetReadDeadline(time.Now().Add(time.Minute)))
	answer, err := io.ReadAll(conn) // to its end
	require.NoError(t, err)
	require.Contains(t, string(answer), "HTTP/1.1 401 Unauthorized")
	require.Contains(t, string(answer), "Connection: close")
}

// The server does not read a refused body as a request. A keep-alive connection continues with the request after the body.
func TestRefusedBodyIsNotReadAsARequest(t *testing.T) {
	t.Parallel()
	s := listening(t, httpapi.New(routes.HTTP, routes.Authorizers, invoker(func(string) lambda.Result {
		return lambda.Result{Payload: []byte(`{"isAuthorized":false}`)}
	})))
	smuggled := "GET /api/tenants/demo/promises HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
	conn := dial(t, s, fmt.Sprintf("POST /api/tenants/demo/promises HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n\r\n%s", len(smuggled), smuggled)+
		"GET /nothing HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
	require.NoError(t, conn.SetReadDeadline(time.Now().Add(time.Minute)))
	answers, err := io.ReadAll(conn)
	require.NoError(t, err)
	require.Equal(t, 1, strings.Count(string(answers), "HTTP/1.1 401"), "%s", answers)
	require.LessOrEqual(t, strings.Count(string(answers), "HTTP/1.1 404"), 1, "%s", answers)
	require.LessOrEqual(t, strings.Count(string(answers), "HTTP/1.1 "), 2, "%s", answers)
}

// Clients that send their bodies slowly do not count towards MaxRequests.
func TestSlowBodiesDoNotCountTowardsMaxRequests(t *testing.T) {
	t.Parallel()
	var authorized atomic.Int32
	s := listening(t, httpapi.New(routes.HTTP, routes.Authorizers, invoker(func(function string) lambda.Result {
		if function == "authorize" {
			authorized.Add(1)
			return lambda.Result{Payload: []byte(`{"isAuthorized":true}`)}
		}
		return lambda.Result{Payload: []byte(`{"statusCode":201,"body":"{}"}`)}
	})))
	const head = "POST /api/tenants/demo/promises HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer %d\r\n"
	for i := range httpapi.MaxRequests + 1 {
		dial(t, s, fmt.Sprintf(head, i)+"Content-Length: 2\r\n\r\n{")
	}
	require.Eventually(t, func() bool { return authorized.Load() > httpapi.MaxRequests }, time.Minute, 10*time.Millisecond)
	req, err := http.NewRequestWithContext(t.Context(), "POST", s.URL+"/api/tenants/demo/promises", strings.NewReader("{}"))
	require.NoError(t, err)
	req.Header.Set("Authorization", "Bearer honest")
	answer, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	require.NoError(t, answer.Body.Close())
	require.Equal(t, 201, answer.StatusCode)
}

// A client beyond maxConnections is served as soon as another client disconnects.
func TestConnectionsAreBounded(t *testing.T) {
	t.Parallel()
	s := httptest.NewUnstartedServer(nil)
	s.Config = newServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "hello") })) //nolint:errcheck // a test
	s.Listener = limitConnections(s.Listener)
	s.Start()
	t.Cleanup(s.Close)
	const request = "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
	served := func(conn net.Conn, within time.Duration) error {
		require.NoError(t, conn.SetReadDeadline(time.Now().Add(within)))
		_, err := conn.Read(make([]byte, 1))
		return err
	}
	var first net.Conn
	for range maxConnections {
		conn := dial(t, s, request)
		require.NoError(t, served(conn, time.Minute))
		if first == nil {
			first = conn
		}
	}
	waiting := dial(t, s, request)
	require.ErrorIs(t, served(waiting, 100*time.Millisecond), os.ErrDeadlineExceeded, "maxConnections are open")
	require.NoError(t, first.Close())
	require.NoError(t, served(waiting, time.Minute))
}
