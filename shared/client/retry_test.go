package client_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/client"
)

const secretKey = "prk_secret0000000000000000000000000000000000000000"

// serve starts a server with handlers, one for each request, and returns a client of it with short pauses.
func serve(t *testing.T, options []client.Option, handlers ...http.HandlerFunc) (*client.Client, *script) {
	t.Helper()
	s := &script{handlers: handlers}
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	c, err := client.New(server.URL, "demo", secretKey, append([]client.Option{client.Backoff(time.Millisecond, 2*time.Millisecond)}, options...)...)
	require.NoError(t, err)
	return c, s
}

var anyID = client.ID(uuid.MustParse("3f0c1c9e-8f4b-4c57-9a1e-3b1c2d4e5f60"))

const settled = `{"outcome":"duplicate","state":"resolved","promiseId":"3f0c1c9e-8f4b-4c57-9a1e-3b1c2d4e5f60"}`

// A call that failed for a while is repeated with the same bytes.
func TestRepeated(t *testing.T) {
	t.Parallel()
	for name, first := range map[string]http.HandlerFunc{
		"unavailable":           answers(503, problem("unavailable", 503)),
		"internal":              answers(500, problem("internal", 500)),
		"the gateway's 503":     answers(503, `{"message":"Service Unavailable"}`),
		"the gateway's 429":     answers(429, `{"message":"Too Many Requests"}`),
		"a proxy's 502":         answers(502, "<html>"),
		"a proxy's 504":         answers(504, ""),
		"a cut connection":      cuts,
		"an answer that breaks": func(w http.ResponseWriter, _ *http.Request) { breakOff(w) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, s := serve(t, nil, first, first, answers(200, settled))
			result, err := c.Resolve(t.Context(), anyID, json.RawMessage(`{"a": 1}`))
			require.NoError(t, err)
			require.Equal(t, client.OutcomeDuplicate, result.Outcome)
			require.Equal(t, 3, s.count())
			s.mu.Lock()
			defer s.mu.Unlock()
			for _, body := range s.bodies {
				require.Equal(t, `{"value":{"a": 1}}`, body)
			}
		})
	}
}

// breakOff sends a part of an answer.
func breakOff(w http.ResponseWriter) {
	w.Header().Set("Content-Length", "100")
	w.Write([]byte(`{"outcome":`)) //nolint:errcheck // the client sees the rest missing
	panic(http.ErrAbortHandler)
}

// A call that can never succeed is sent once.
func TestNotRepeated(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		answer http.HandlerFunc
		code   client.Code
		says   string
	}{
		"a problem":              {answers(404, problem("not_found", 404)), client.CodeNotFound, "D."},
		"a quota":                {answers(429, problem("quota_exceeded", 429), "Retry-After", "5"), client.CodeQuotaExceeded, "D."},
		"the gateway's 401":      {answers(401, `{"message":"Unauthorized"}`), client.CodeUnauthenticated, "Unauthorized"},
		"the gateway's 403":      {answers(403, `{"message":"Forbidden"}`), client.CodeUnauthenticated, "Forbidden"},
		"the gateway's 404":      {answers(404, `{"message":"Not Found"}`), "", "status 404: Not Found"},
		"the gateway's 413":      {answers(413, `{"message":"Request Entity Too Large"}`), client.CodeValueTooLarge, "Too Large"},
		"a redirect":             {answers(307, "", "Location", "http://127.0.0.1:9/"), "", "Correct the base URL"},
		"a page":                 {answers(200, "<html>"), "", "names the promises service"},
		"a page that is no JSON": {answers(400, "<html>"), "", "none of the promises service"},
		"an endless answer":      {answers(200, strings.Repeat(" ", client.MaxAnswer+1)), "", "more than"},
		"a long Retry-After":     {answers(503, problem("unavailable", 503), "Retry-After", "3600"), client.CodeUnavailable, "D."},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, s := serve(t, nil, row.answer)
			_, err := c.Get(t.Context(), anyID)
			e, ok := errors.AsType[*client.Error](err)
			require.True(t, ok, "%v", err)
			require.Equal(t, row.code, e.Code)
			require.Contains(t, err.Error(), row.says)
			require.Contains(t, err.Error(), "promises: get-promise: ")
			require.Equal(t, 1, s.count())
		})
	}
}

func TestAttemptsAreBounded(t *testing.T) {
	t.Parallel()
	c, s := serve(t, []client.Option{client.Attempts(3)}, answers(503, problem("unavailable", 503)))
	_, err := c.Get(t.Context(), anyID)
	e, _ := errors.AsType[*client.Error](err)
	require.ErrorIs(t, err, client.CodeUnavailable)
	require.True(t, e.Temporary)
	require.True(t, e.MaybeApplied)
	require.Equal(t, 3, s.count())
}

// A server that does not exist certainly applied nothing.
func TestNoServer(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	l.Close()
	c, err := client.New("http://"+l.Addr().String(), "demo", secretKey, client.Backoff(1, 1))
	require.NoError(t, err)
	_, err = c.PutDestination(t.Context(), "orders", "https://example.com")
	e, _ := errors.AsType[*client.Error](err)
	require.ErrorIs(t, err, client.CodeUnavailable)
	require.False(t, e.MaybeApplied)
	require.NotContains(t, err.Error(), secretKey)
}

// The pause is at least the Retry-After.
func TestRetryAfter(t *testing.T) {
	t.Parallel()
	c, s := serve(t, nil, answers(503, problem("unavailable", 503), "Retry-After", "1"), answers(200, settled))
	begun := time.Now()
	_, err := c.Resolve(t.Context(), anyID, 1)
	require.NoError(t, err)
	require.GreaterOrEqual(t, time.Since(begun), time.Second)
	require.Equal(t, 2, s.count())
}

// A call whose next pause would pass the deadline returns its failure at once.
func TestRetryAfter_BeyondTheDeadline_ReturnsTheFailure(t *testing.T) {
	t.Parallel()
	c, s := serve(t, nil, answers(503, problem("unavailable", 503), "Retry-After", "20"))
	ctx, stop := context.WithTimeout(t.Context(), 10*time.Second)
	defer stop()
	_, err := c.Get(ctx, anyID)
	require.ErrorIs(t, err, client.CodeUnavailable)
	require.NoError(t, ctx.Err(), "it did not wait for the deadline")
	require.Equal(t, 1, s.count())
}

func TestContextEnds(t *testing.T) {
	t.Parallel()
	ctx, stop := context.WithCancel(t.Context())
	c, s := serve(t, nil, func(_ http.ResponseWriter, r *http.Request) {
		stop()
		<-r.Context().Done()
	})
	_, err := c.Get(ctx, anyID)
	require.ErrorIs(t, err, context.Canceled)
	require.NotErrorIs(t, err, client.CodeUnavailable)
	require.Equal(t, 1, s.count())
}

// The JSON of another server is no success.
func TestOtherServer(t *testing.T) {
	t.Parallel()
	c, _ := serve(t, nil, answers(200, `{"ok":true}`))
	ctx := t.Context()
	for name, call := range map[string]func() error{
		"Get": func() error { _, err := c.Get(ctx, anyID); return err },
		"Create": func() error {
			_, err := c.Create(ctx, client.Create{Workflow: client.WorkflowID("w"), Name: "n"})
			return err
		},
		"Await":          func() error { _, err := c.Await(ctx, anyID); return err },
		"Resolve":        func() error { _, err := c.Resolve(ctx, anyID, 1); return err },
		"List":           func() error { _, err := collect(c.List(ctx, client.Filter{})); return err },
		"Events":         func() error { _, err := collect(c.Events(ctx, workflow, 0)); return err },
		"WaitEvents":     func() error { _, _, err := c.WaitEvents(ctx, workflow, 0); return err },
		"GetDestination": func() error { _, err := c.GetDestination(ctx, "orders"); return err },
		"GetSource":      func() error { _, err := c.GetSource(ctx, "ci"); return err },
	} {
		t.Run(name, func(t *testing.T) { require.ErrorContains(t, call(), "names the promises service") })
	}
	_, err := c.BatchResolve(ctx, []client.Item{{Promise: anyID}})
	require.ErrorContains(t, err, "0 results for 1 items")
	page, _ := serve(t, nil, answers(200, "<html>"))
	require.Error(t, page.DeleteSource(ctx, "ci"))
	require.Error(t, page.SetDefaultDestination(ctx, "orders"))
}

// A call that makes a secret or sends a message is not repeated once it may have been applied.
func TestOnce(t *testing.T) {
	t.Parallel()
	for name, call := range map[string]func(ctx context.Context, c *client.Client) error{
		"PutDestination": func(ctx context.Context, c *client.Client) error {
			_, err := c.PutDestination(ctx, "orders", "https://example.com")
			return err
		},
		"RotateDestinationSecret": func(ctx context.Context, c *client.Client) error {
			_, err := c.RotateDestinationSecret(ctx, "orders", client.Rotation{})
			return err
		},
		"TestDestination": func(ctx context.Context, c *client.Client) error {
			_, err := c.TestDestination(ctx, "orders")
			return err
		},
		"PutSource": func(ctx context.Context, c *client.Client) error {
			_, err := c.PutSource(ctx, "ci", client.SourceDefinition{}, "")
			return err
		},
		"RotateSourceSecret": func(ctx context.Context, c *client.Client) error {
			_, err := c.RotateSourceSecret(ctx, "ci", "", client.Rotation{})
			return err
		},
		"RotateSourceSecret to a given secret, with a version that ends": func(ctx context.Context, c *client.Client) error {
			_, err := c.RotateSourceSecret(ctx, "ci", "given", client.Rotation{ReplaceVersion: 1})
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, s := serve(t, nil, answers(429, `{"message":"Too Many Requests"}`), cuts)
			err := call(t.Context(), c)
			e, _ := errors.AsType[*client.Error](err)
			require.ErrorIs(t, err, client.CodeUnavailable)
			require.True(t, e.MaybeApplied)
			require.Equal(t, 2, s.count(), "429 was repeated, and the cut connection was not")
		})
	}
}

// A delete whose answer was lost finds nothing when it is repeated.
func TestDelete_AnswerLost_NotFoundIsSuccess(t *testing.T) {
	t.Parallel()
	c, _ := serve(t, nil, cuts, answers(404, problem("not_found", 404)))
	require.NoError(t, c.DeleteDestination(t.Context(), "orders"))
	c, _ = serve(t, nil, answers(404, problem("not_found", 404)))
	require.ErrorIs(t, c.DeleteSource(t.Context(), "ci"), client.CodeNotFound)
}

// The API key is in the header of each request, and in no error, no redirect and no printed client.
func TestAPIKeyIsSecret(t *testing.T) {
	t.Parallel()
	elsewhere := &script{handlers: []http.HandlerFunc{answers(200, settled)}}
	other := httptest.NewServer(elsewhere)
	t.Cleanup(other.Close)
	mine := &http.Client{}
	c, s := serve(t, []client.Option{client.HTTPClient(mine)}, answers(308, "", "Location", other.URL), cuts, answers(200, "no JSON"))
	for range 3 {
		_, err := c.Resolve(t.Context(), anyID, 1)
		require.Error(t, err)
		require.NotContains(t, fmt.Sprintf("%v %+v", err, err), secretKey)
	}
	require.Equal(t, "Bearer "+secretKey, s.requests[0].Header.Get("Authorization"))
	require.Zero(t, elsewhere.count(), "the redirect was not followed")
	require.Nil(t, mine.CheckRedirect, "the caller's own http.Client stays as it was")
	require.NotContains(t, fmt.Sprintf("%v %+v %#v", c, c, c), secretKey)
	_, err := client.New("https://example.com", "demo", secretKey+"\n")
	require.Error(t, err)
	require.NotContains(t, err.Error(), secretKey)
}

func TestNew_Refuses(t *testing.T) {
	t.Parallel()
	for name, a := range map[string][3]string{
		"no URL":            {"", "demo", "k"},
		"no scheme":         {"example.com", "demo", "k"},
		"another scheme":    {"ftp://example.com", "demo", "k"},
		"a user":            {"https://u:p@example.com", "demo", "k"},
		"a query":           {"https://example.com?a", "demo", "k"},
		"no tenant":         {"https://example.com", "", "k"},
		"a tenant's path":   {"https://example.com", "a/b", "k"},
		"a tenant of dots":  {"https://example.com", "..", "k"},
		"no key":            {"https://example.com", "demo", ""},
		"a key of two rows": {"https://example.com", "demo", "k\nx"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := client.New(a[0], a[1], a[2])
			require.Error(t, err)
		})
	}
	c, err := client.New("https://example.com/stage/", "demo", "k")
	require.NoError(t, err, "the base URL may have a path")
	require.NotNil(t, c)
}

// An argument that cannot be sent as it is fails before any request.
func TestLocalErrors(t *testing.T) {
	t.Parallel()
	c, s := serve(t, nil, answers(200, "{}"))
	ctx := t.Context()
	for name, row := range map[string]struct {
		code  client.Code
		field string
		call  func() error
	}{
		"a value that is not JSON": {client.CodeMalformedJSON, "value", func() error {
			_, err := c.Resolve(ctx, anyID, json.RawMessage(`1,"strict":true`))
			return err
		}},
		"a value that JSON cannot hold": {client.CodeMalformedJSON, "value", func() error {
			_, err := c.Resolve(ctx, anyID, make(chan int))
			return err
		}},
		"a default outcome that JSON cannot hold": {client.CodeMalformedJSON, "onTimeout.resolve", func() error {
			_, err := c.Create(ctx, client.Create{Workflow: client.WorkflowID("w"), Name: "n", OnTimeout: client.ResolveOnTimeout(make(chan int))})
			return err
		}},
		"an error that is no UTF-8": {client.CodeInvalidUTF8, "error", func() error {
			_, err := c.Reject(ctx, anyID, "\xff")
			return err
		}},
		"a key that is no UTF-8": {client.CodeInvalidUTF8, "key", func() error {
			_, err := c.Get(ctx, client.Key("\xff"))
			return err
		}},
		"a hold by id": {client.CodeUnknownField, "holdSeconds", func() error {
			_, err := c.Resolve(ctx, anyID, 1, client.Hold(time.Hour))
			return err
		}},
		"a value over Lambda's limit": {client.CodeValueTooLarge, "", func() error {
			_, err := c.Resolve(ctx, anyID, strings.Repeat("x", 6<<20))
			return err
		}},
		"a log without a workflow": {client.CodeMissingField, "workflowExecutionId", func() error {
			_, _, err := c.WaitEvents(ctx, client.Workflow{}, 0)
			return err
		}},
		"a name with a slash": {client.CodeInvalidName, "name", func() error {
			_, err := c.GetDestination(ctx, "a/b")
			return err
		}},
		"a name of dots": {client.CodeInvalidName, "name", func() error { return c.DeleteSource(ctx, "..") }},
		"an empty name":  {client.CodeInvalidName, "name", func() error { return c.DeleteSource(ctx, "") }},
		"an item of a batch": {client.CodeMalformedJSON, "value", func() error {
			_, err := c.BatchResolve(ctx, []client.Item{{Promise: anyID, Value: make(chan int)}})
			return err
		}},
	} {
		t.Run(name, func(t *testing.T) {
			err := row.call()
			e, ok := errors.AsType[*client.Error](err)
			require.True(t, ok, "%v", err)
			require.Equal(t, row.code, e.Code)
			require.Equal(t, row.field, e.Field)
			require.False(t, e.MaybeApplied)
		})
	}
	require.Zero(t, s.count())
}
