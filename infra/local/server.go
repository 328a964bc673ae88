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
// until another one has left.
const maxConnections = 512

// listen bounds what clients can make the server hold.
func listen(l net.Listener) net.Listener { return netutil.LimitListener(l, maxConnections) }

// newServer serves h with bounds on what a client may make it hold and wait for.
func newServer(h http.Handler) *http.Server {
	return &http.Server{
		Handler:           boundedBody(h),
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
	}
}

// serve serves until ctx ends. It then accepts nothing more and waits until
// every request under way is answered. Functions that wait for a promise answer
// at once with what is so; others have the time that a call may wait for the
// database, and a little. What is left after that is ended with the service, and
// answered with its error: no connection is cut while a call waits for an answer.
func serve(ctx context.Context, s *http.Server, l net.Listener, service *lambda.Service) error {
	const (
		grace  = 5 * time.Second // a call waits for the database for 4
		moment = 2 * time.Second // to write an answer
	)
	stopped := make(chan struct{})
	defer context.AfterFunc(ctx, func() {
		defer close(stopped)
		service.Interrupt()
		if shutdown(s, grace) == nil {
			return
		}
		service.Close()
		if shutdown(s, moment) != nil {
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

// notFromPages refuses what a page in a browser can make it send: the Invoke API
// runs functions for everybody who asks. A page's request has an Origin, or, where
// a name was made to lead here, a Host that is not loopback.
func notFromPages(h http.Handler) http.Handler {
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

// boundedBody gives a client a minute to send a request's body, which the handler
// may read late or not at all. The rest is thrown away after the answer, so that
// the client reads that instead of finding its connection closed.
func boundedBody(h http.Handler) http.Handler {
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
		control.EnableFullDuplex()                      //nolint:errcheck // or an early answer waits for the body
		control.SetReadDeadline(time.Now().Add(within)) //nolint:errcheck // a net.Conn has deadlines
		b := &body{ReadCloser: r.Body, ended: func(err error) {
			if errors.Is(err, io.EOF) {
				control.SetReadDeadline(time.Time{}) //nolint:errcheck // or it would go on while the function runs
				return
			}
			w.Header().Set("Connection", "close") // what is left of the body is no request
		}}
		r.Body = b
		expects := r.Header.Get("Expect") != ""
		if expects { // its client may never send the body
			w.Header().Set("Connection", "close")
		}
		h.ServeHTTP(w, r)
		switch {
		case b.err != nil:
		case expects:
			control.SetReadDeadline(time.Now()) //nolint:errcheck // or net/http waits for the body
		default:
			control.Flush()                    //nolint:errcheck // a connection can be flushed
			io.CopyN(io.Discard, b, discard+1) //nolint:errcheck // the client has left
		}
	})
}

// body calls ended with the first error, which is io.EOF at the body's end.
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
