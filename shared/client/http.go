package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// idleConnections is the number of idle connections that New's own http.Client keeps.
const idleConnections = 32

// New returns a client of the HTTP API. baseURL is the API's address, such as
// https://api.example.com, tenant the tenant's slug, and apiKey a key of that tenant, or
// a promise token for resolve and reject.
//
// The key goes into the Authorization header of each request and nowhere else: no error
// has it, and the client follows no redirect. An error of New names what is wrong with an
// argument.
func New(baseURL, tenant, apiKey string, options ...Option) (*Client, error) {
	base, err := url.Parse(baseURL)
	switch {
	case err != nil || base.Scheme != "http" && base.Scheme != "https" || base.Host == "":
		return nil, errors.New("promises: the base URL must be https://HOST, perhaps with a path")
	case base.User != nil || base.RawQuery != "" || base.Fragment != "":
		return nil, errors.New("promises: the base URL must have no user, no query and no fragment")
	case tenant == "" || url.PathEscape(tenant) != tenant || strings.Trim(tenant, ".") == "":
		return nil, errors.New("promises: the tenant must be a slug, such as acme")
	case apiKey == "" || strings.ContainsFunc(apiKey, func(r rune) bool { return r <= ' ' || r > '~' }):
		return nil, errors.New("promises: the API key must be visible ASCII characters, such as prk_ and 47 letters and digits")
	}
	c := NewWithTransport(tenant, nil, options...)
	t := &httpTransport{
		base:      strings.TrimRight(baseURL, "/"),
		authorize: func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+apiKey) },
	}
	if c.http != nil {
		t.client = *c.http
	} else if own, ok := http.DefaultTransport.(*http.Transport); ok { // unless a program has replaced it
		own = own.Clone()
		own.MaxIdleConnsPerHost = idleConnections
		t.client.Transport = own
	}
	t.client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	c.transport = t
	return c, nil
}

// An httpTransport calls the HTTP API. The API key is in a closure, so that a printed
// Client does not show it.
type httpTransport struct {
	base      string
	authorize func(*http.Request)
	client    http.Client
}

// Send implements Transport.
func (t *httpTransport) Send(ctx context.Context, r Request) (Answer, error) {
	var body io.Reader = http.NoBody
	if text := r.JSON(); text != nil {
		body = bytes.NewReader(text)
	}
	req, err := http.NewRequestWithContext(ctx, r.Method, t.base+r.URL(), body)
	if err != nil {
		return Answer{}, &Error{Detail: "The request cannot be made.", Err: err}
	}
	t.authorize(req)
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", "promises-go")
	if r.Body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := t.client.Do(req)
	if err != nil {
		return Answer{}, Unanswered(0, "The service could not be reached, or did not answer.", err)
	}
	defer resp.Body.Close()
	a := Answer{Status: resp.StatusCode, RetryAfter: retryAfter(resp.Header.Get("Retry-After"), time.Now())}
	a.Body, err = io.ReadAll(io.LimitReader(resp.Body, MaxAnswer+1))
	switch {
	case err != nil:
		return Answer{}, Unanswered(0, "The answer broke off.", err)
	case len(a.Body) > MaxAnswer:
		return Answer{}, &Error{Status: a.Status, MaybeApplied: true, Detail: fmt.Sprintf("The answer has more than %d bytes.", MaxAnswer)}
	case a.Status/100 == 2:
		return a, nil
	}
	return Answer{}, refusal(a)
}

// refusal returns the error of an answer that is no success.
func refusal(a Answer) *Error {
	var e Error
	if json.Unmarshal(a.Body, &e) == nil {
		e.Status, e.RetryAfter = a.Status, a.RetryAfter
		return &e
	}
	var gateway struct{ Message string }
	detail := "The answer is none of the promises service."
	switch {
	case a.Status/100 == 3:
		detail = "The answer is a redirect, which is not followed, because it would send the API key elsewhere. Correct the base URL."
	case json.Unmarshal(a.Body, &gateway) == nil && gateway.Message != "":
		detail = gateway.Message[:min(len(gateway.Message), 500)]
	}
	refused := Unanswered(a.Status, detail, nil)
	refused.RetryAfter = a.RetryAfter
	if a.Status == http.StatusForbidden { // API Gateway's answer for an invalid key
		refused.Code = CodeUnauthenticated
	}
	return refused
}

// retryAfter reads the header Retry-After: seconds, or a date. It returns 0 if there is
// none.
func retryAfter(text string, now time.Time) time.Duration {
	if seconds, err := strconv.Atoi(text); err == nil {
		return max(0, min(time.Duration(seconds), 365*24*3600)) * time.Second
	}
	if at, err := http.ParseTime(text); err == nil {
		return max(0, at.Sub(now))
	}
	return 0
}
