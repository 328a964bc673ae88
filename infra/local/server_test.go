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

	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/infra/local/httpapi"
	"github.com/flovyn/promises/infra/local/lambda"
	"github.com/flovyn/promises/shared/routes"
)

// listening serves h as the runner does.
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

// A page's request is refused before its body has come: it must not fill the memory.
func TestPagesAreRefusedBeforeTheirBody(t *testing.T) {
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

// invoker is an httpapi.Invoker.
type invoker func(function string) lambda.Result

func (i invoker) Invoke(_ context.Context, function string, _ lambda.Request) (lambda.Result, error) {
	return i(function), nil
}

// A request without a valid credential is answered before its body has come.
func TestStrangersAreRefusedBeforeTheirBody(t *testing.T) {
	t.Parallel()
	s := listening(t, httpapi.New(routes.HTTP, routes.Authorizers, invoker(func(function string) lambda.Result {
		require.Equal(t, "authorize", function)
		return lambda.Result{Payload: []byte(`{"isAuthorized":false}`)}
	})))
	for credential, want := range map[string]string{"": "401 Unauthorized", "Authorization: Bearer x\r\n": "403 Forbidden"} {
		conn := dial(t, s, "POST /api/tenants/demo/promises HTTP/1.1\r\nHost: 127.0.0.1\r\n"+credential+"Content-Length: 10000000\r\n\r\n{")
		answer := make([]byte, len("HTTP/1.1 ")+len(want))
		require.NoError(t, conn.SetReadDeadline(time.Now().Add(time.Minute)))
		_, err := io.ReadFull(conn, answer)
		require.NoError(t, err)
		require.Equal(t, "HTTP/1.1 "+want, string(answer))
	}
}

// A refusal before the body ends the connection of a client that expects 100 Continue: it may never send the body, and the next
// request would be taken for it.
func TestARefusedClientThatWaitsToSend(t *testing.T) {
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

// The rest of a body that was refused is no request, and a keep-alive connection goes on with the one behind it.
func TestARefusedBodyIsNoRequest(t *testing.T) {
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

// Clients that send their bodies slowly take no place from another one.
func TestSlowBodiesTakeNoPlace(t *testing.T) {
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

// A client beyond the bound is served as soon as another one has left.
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
	late := dial(t, s, request)
	require.ErrorIs(t, served(late, 100*time.Millisecond), os.ErrDeadlineExceeded, "all places are taken")
	require.NoError(t, first.Close())
	require.NoError(t, served(late, time.Minute))
}
