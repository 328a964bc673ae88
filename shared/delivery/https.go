package delivery

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unicode"
)

const (
	// attemptTimeout bounds one attempt, from the look-up of the name to the end of the
	// answer. Standard Webhooks recommends 15 to 30 s.
	attemptTimeout = 15 * time.Second

	bodyTimeout = 2 * time.Second // bounds the body of an answer, on which no outcome depends
	concurrency = 16              // attempts of one batch at the same time
	maxHeader   = 16 << 10        // bytes of an answer's headers
	maxBody     = 4 << 10         // bytes of an answer's body that are read
	maxExcerpt  = 200             // bytes of an answer's body in an Error
)

var errInvalid = fmt.Sprintf("the destination's answer is not valid TLS or HTTP, or its headers exceed %d bytes", maxHeader)

// An HTTPSSender sends batches of the kind HTTPS. It keeps no state between batches, and
// is safe for concurrent use.
type HTTPSSender struct {
	Version string // of the service, for the header User-Agent

	// Loopback permits loopback addresses, by https and by http. It is for the local
	// runner only.
	Loopback bool

	// For tests: the trusted authorities, the resolver, more permitted addresses, and
	// the time for one attempt. The zero values are the system's own and attemptTimeout.
	roots    *x509.CertPool
	resolver *net.Resolver
	allow    func(netip.AddrPort) bool
	timeout  time.Duration
}

// Send makes one attempt for each delivery of the batch, several at the same time, and
// returns a Result for each, in the same order. It POSTs the message's Body as
// application/json with the message's Headers. Each attempt ends within 15 s, and the
// batch when ctx ends.
//
// The outcome follows Standard Webhooks 1.0.0, "Delivery success and failure":
//
//   - 2xx: Delivered. The body of the answer does not count.
//   - 410: Disabled.
//   - Any other status, redirects included: Failed with Status. Error has at most 200
//     printable bytes of the answer, without words that may be a token or a signature.
//   - 429 and 503 with Retry-After (RFC 9110, section 10.2.3): RetryAfter too, at most
//     MaxRetryAfter.
//   - No answer, or an invalid one: Failed. This includes a name that has no address or
//     one that is not public, and an invalid certificate, because both can be repaired.
//   - Refused: the URL can never be used, or the delivery has no valid message. An
//     address in the URL itself that is not public is such a case.
//
// After a 410, and after an answer with Retry-After, Send starts no further attempt of
// the batch. The rest is Disabled, or Throttled with the same RetryAfter. If ctx ends,
// the rest is Throttled.
func (s *HTTPSSender) Send(ctx context.Context, b Batch) []Result {
	results := make([]Result, len(b.Deliveries))
	to := reach{s.Loopback, s.allow}
	u, err := to.parse(b.Destination.Address)
	if b.Destination.Kind != HTTPS {
		err = errors.New("the destination is not of the kind https")
	}
	if err != nil {
		for i, d := range b.Deliveries {
			results[i] = Result{ID: d.ID, Outcome: Refused, Error: err.Error()}
		}
		return results
	}
	transport := newTransport(u.Scheme, to, s.roots, s.resolver)
	defer transport.CloseIdleConnections()
	var (
		workers sync.WaitGroup
		next    atomic.Int64
		stop    atomic.Pointer[Result]
	)
	for range min(concurrency, len(results)) {
		workers.Go(func() {
			for i := next.Add(1) - 1; i < int64(len(results)); i = next.Add(1) - 1 {
				d := b.Deliveries[i]
				if reason := stop.Load(); reason != nil {
					results[i] = unsent(d.ID, *reason)
					continue
				}
				if ctx.Err() != nil {
					results[i] = Result{ID: d.ID, Outcome: Throttled, Error: "not sent: the batch had no time left"}
					continue
				}
				result := s.attempt(ctx, transport, u, d.Message)
				result.ID = d.ID
				results[i] = result
				if result.Outcome == Disabled || result.RetryAfter > 0 {
					stop.Store(&result)
				}
			}
		})
	}
	workers.Wait()
	return results
}

// unsent returns the result of a delivery that is not attempted because of the result of
// another one.
func unsent(id string, reason Result) Result {
	outcome := Throttled
	if reason.Outcome == Disabled {
		outcome = Disabled
	}
	return Result{
		ID:         id,
		Outcome:    outcome,
		Error:      "not sent: the destination answered another message with status " + strconv.Itoa(reason.Status),
		RetryAfter: reason.RetryAfter,
	}
}

// attempt sends one message.
func (s *HTTPSSender) attempt(ctx context.Context, transport *http.Transport, u *url.URL, m *Message) Result {
	timeout := attemptTimeout
	if s.timeout > 0 {
		timeout = s.timeout
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	request, err := s.request(ctx, u, m)
	if err != nil {
		return Result{Outcome: Refused, Error: err.Error()}
	}
	answer, err := transport.RoundTrip(request) // it follows no redirect
	if err != nil {
		return Result{Outcome: Failed, Error: cause(err)}
	}
	defer answer.Body.Close()
	if answer.StatusCode == 0 { // net/http accepts it
		return Result{Outcome: Failed, Error: errInvalid}
	}
	var body []byte
	if answer.StatusCode != http.StatusSwitchingProtocols { // the body of which is the connection
		defer time.AfterFunc(bodyTimeout, cancel).Stop()
		body, _ = io.ReadAll(io.LimitReader(answer.Body, maxBody)) // at its end the connection can be used again
	}
	return judge(answer.StatusCode, answer.Header.Get("Retry-After"), body, time.Now())
}

// request returns the request for a message.
func (s *HTTPSSender) request(ctx context.Context, u *url.URL, m *Message) (*http.Request, error) {
	if m == nil {
		return nil, errors.New("the delivery has no message")
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, u.String(), bytes.NewReader(m.Body))
	if err != nil {
		return nil, errors.New("the destination's URL is malformed")
	}
	for name, value := range m.Headers {
		if name == "" || strings.ContainsAny(name, " :") || strings.ContainsFunc(name+value, func(r rune) bool { return r < ' ' || r > '~' }) {
			return nil, errors.New("a header of the message is not valid")
		}
		request.Header.Set(name, value)
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("User-Agent", "promises/"+s.Version)
	// The key without a value is not sent. It permits the transport to repeat the message
	// on a new connection, if the server closed a used one: receivers know repeated ids.
	request.Header["Idempotency-Key"] = nil
	return request, nil
}

// judge returns the result of an answer.
func judge(status int, after string, body []byte, now time.Time) Result {
	r := Result{Outcome: Failed, Status: status}
	switch {
	case status >= 200 && status <= 299:
		r.Outcome = Delivered
		return r
	case status == http.StatusGone:
		r.Outcome = Disabled
	case status == http.StatusTooManyRequests || status == http.StatusServiceUnavailable:
		r.RetryAfter = ParseRetryAfter(after, now)
	}
	r.Error = "status " + strconv.Itoa(status)
	if text := excerpt(body); text != "" {
		r.Error += ": " + text
	}
	return r
}

// ParseRetryAfter reads the header Retry-After: seconds or an HTTP date (RFC 9110, section
// 10.2.3). It returns at most MaxRetryAfter, and 0 if the header is missing, invalid or
// in the past.
func ParseRetryAfter(value string, now time.Time) time.Duration {
	if value != "" && strings.Trim(value, "0123456789") == "" {
		seconds, err := strconv.ParseInt(value, 10, 64)
		if err != nil || seconds > int64(MaxRetryAfter/time.Second) {
			return MaxRetryAfter
		}
		return time.Duration(seconds) * time.Second
	}
	at, err := http.ParseTime(value)
	if err != nil {
		return 0
	}
	return min(max(at.Sub(now), 0), MaxRetryAfter)
}

// tokens are words that may be a token, a signature or a secret: 32 or more characters of
// base64, of hexadecimal, or of their escapes in JSON.
var tokens = regexp.MustCompile(`[A-Za-z0-9+/=_\\%-]{32,}`)

// excerpt returns the beginning of a body: printable, on one line, without tokens.
func excerpt(body []byte) string {
	text := string(body)
	if len(body) == maxBody { // a token may be cut
		text = text[:strings.LastIndexFunc(text, unicode.IsSpace)+1]
	}
	return plain(text, maxExcerpt)
}

// plain returns at most limit bytes of the text: printable, on one line, without tokens.
func plain(text string, limit int) string {
	text = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) || r == unicode.ReplacementChar {
			return ' '
		}
		return r
	}, text)
	text = tokens.ReplaceAllString(strings.Join(strings.Fields(text), " "), "...")
	if len(text) > limit {
		text = strings.ToValidUTF8(text[:limit], "")
	}
	return text
}

// cause describes an attempt without an answer. Its text is not that of the error, which
// may contain addresses of the network or bytes that the destination sent.
func cause(err error) string {
	var (
		name        *net.DNSError
		certificate *tls.CertificateVerificationError
		timeout     net.Error
		record      tls.RecordHeaderError
		operation   *net.OpError
	)
	switch {
	case errors.Is(err, errNotPublic):
		return errNotPublic.Error()
	case errors.Is(err, context.Canceled):
		return "the attempt was cut off"
	case errors.As(err, &name) && name.IsNotFound:
		return "the destination's name has no address"
	case errors.As(err, &name):
		return "the destination's name cannot be looked up"
	case errors.As(err, &timeout) && timeout.Timeout():
		return "the destination did not answer in time"
	case errors.As(err, &certificate):
		return plain(certificate.Error(), MaxError)
	case errors.As(err, &record):
		return "the destination does not speak TLS"
	case errors.As(err, &operation) && operation.Op == "remote error":
		return "the destination refused the TLS handshake: " + plain(operation.Err.Error(), maxExcerpt)
	case errors.Is(err, syscall.ECONNREFUSED):
		return "the destination refused the connection"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return "the destination closed the connection before it answered"
	case errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EHOSTUNREACH):
		return "the destination's network cannot be reached"
	}
	return errInvalid
}
