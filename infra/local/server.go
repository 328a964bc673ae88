package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/flovyn/promises/infra/local/httpapi"
	"github.com/flovyn/promises/infra/local/lambda"
)

// newServer serves h with bounds on what a client may make it hold and wait for.
func newServer(h http.Handler) *http.Server {
	return &http.Server{
		Handler:           wholeBody(h),
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

// wholeBody reads a request's body before the handler runs, within a minute. A
// body that is larger than either API accepts is cut off just above the limit,
// and the rest thrown away, so that the client reads the answer instead of
// finding its connection closed.
func wholeBody(h http.Handler) http.Handler {
	const (
		keep    = httpapi.MaxBody + 1
		discard = 100 << 20
		within  = time.Minute
	)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// A server timeout would go on counting while the function runs.
		control := http.NewResponseController(w)
		control.SetReadDeadline(time.Now().Add(within)) //nolint:errcheck // a net.Conn has deadlines
		body, err := io.ReadAll(io.LimitReader(r.Body, keep))
		if err == nil && len(body) == keep {
			_, err = io.CopyN(io.Discard, r.Body, discard)
			if errors.Is(err, io.EOF) {
				err = nil
			}
		}
		control.SetReadDeadline(time.Time{}) //nolint:errcheck // a net.Conn has deadlines
		if err != nil {
			w.Header().Set("Connection", "close")
			http.Error(w, `{"message":"Bad Request"}`, http.StatusBadRequest)
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		h.ServeHTTP(w, r)
	})
}
