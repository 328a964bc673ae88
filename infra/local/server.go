package main

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/flovyn/promises/infra/local/httpapi"
)

// newServer serves h with bounds on what a client may make it hold and wait for.
func newServer(h http.Handler) *http.Server {
	return &http.Server{
		Handler:           wholeBody(h),
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
	}
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
