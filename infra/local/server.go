package main

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"time"

	"golang.org/x/net/netutil"

	"github.com/flovyn/promises/infra/local/lambda"
)

// maxConnections bounds the connections of one listener. A further client waits
// until another client disconnects.
const maxConnections = 512

// limitConnections bounds the listener's open connections.
func limitConnections(l net.Listener) net.Listener { return netutil.LimitListener(l, maxConnections) }

// newServer returns a server of h that bounds how long it waits for each client's
// headers and body.
func newServer(h http.Handler) *http.Server {
	return &http.Server{
		Handler:           limitBody(h),
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
	}
}

// serve serves until ctx ends. Then it accepts no more connections and waits until
// every running request is answered. Functions that wait for a promise answer at
// once with its current state. Other calls get slightly more than the time that a
// call may wait for the database. After that serve closes the service, and the
// remaining requests are answered with its error. So no client loses its
// connection before it has an answer.
func serve(ctx context.Context, s *http.Server, l net.Listener, service *lambda.Service) error {
	const (
		callTime  = 5 * time.Second // a call waits up to 4 s for the database
		writeTime = 2 * time.Second // for writing an answer
	)
	stopped := make(chan struct{})
	defer context.AfterFunc(ctx, func() {
		defer close(stopped)
		service.Interrupt()
		if shutdown(s, callTime) == nil {
			return
		}
		service.Close()
		if shutdown(s, writeTime) != nil {
			s.Close()
		}
	})()
	if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	<-stopped
	return nil
}

func shutdown(s *http.Server, within time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	return s.Shutdown(ctx)
}

// rejectBrowserPages answers requests from web pages with 403, because the Invoke
// API runs functions without asking for credentials. A page's request has an Origin
// header, or, after DNS rebinding, a Host that is not loopback.
func rejectBrowserPages(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host, _, err := net.SplitHostPort(r.Host)
		if err != nil {
			host = r.Host
		}
		if checkLoopback(net.JoinHostPort(host, "0")) != nil || r.Header.Get("Origin") != "" {
			http.Error(w, `{"message":"Forbidden"}`, http.StatusForbidden)
			return
		}
		h.ServeHTTP(w, r)
	})
}

// limitBody gives a client one minute to send a request's body, which the handler
// may read late or not at all. After the answer it reads and discards the rest of
// the body, so that the client gets the answer instead of a closed connection.
func limitBody(h http.Handler) http.Handler {
	const (
		within  = time.Minute
		discard = 100 << 20
	)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Body == http.NoBody {
			h.ServeHTTP(w, r)
			return
		}
		control := http.NewResponseController(w)
		control.EnableFullDuplex()                      //nolint:errcheck // without it an early answer waits for the body
		control.SetReadDeadline(time.Now().Add(within)) //nolint:errcheck // a net.Conn has deadlines
		b := &body{ReadCloser: r.Body, ended: func(err error) {
			if errors.Is(err, io.EOF) {
				control.SetReadDeadline(time.Time{}) //nolint:errcheck // the deadline must not expire while the function runs
				return
			}
			w.Header().Set("Connection", "close") // the server must not read the rest of the body as a request
		}}
		r.Body = b
		expects := r.Header.Get("Expect") != ""
		if expects { // the client may never send the body
			w.Header().Set("Connection", "close")
		}
		h.ServeHTTP(w, r)
		switch {
		case b.err != nil:
		case expects:
			control.SetReadDeadline(time.Now()) //nolint:errcheck // without it net/http waits for the body
		default:
			control.Flush()                    //nolint:errcheck // a connection can be flushed
			io.CopyN(io.Discard, b, discard+1) //nolint:errcheck // the client has left
		}
	})
}

// A body is a request body that calls ended once, with the first read error (io.EOF
// at the end of the body).
type body struct {
	io.ReadCloser
	err   error
	ended func(error)
}

func (b *body) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil && b.err == nil {
		b.err = err
		b.ended(err)
	}
	return n, err
}
