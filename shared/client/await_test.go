package client_test

import (
	"context"
	"errors"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/client"
)

const pending = `{"promiseId":"3f0c1c9e-8f4b-4c57-9a1e-3b1c2d4e5f60","state":"pending"}`
const resolved = `{"promiseId":"3f0c1c9e-8f4b-4c57-9a1e-3b1c2d4e5f60","state":"resolved","value":7}`

// If waits are refused, Await reads with get-promise and pauses.
func TestAwait_WaitsRefused_Reads(t *testing.T) {
	t.Parallel()
	for name, refused := range map[string]http.HandlerFunc{
		"forbidden":   answers(403, problem("forbidden", 403)),
		"no route":    answers(404, `{"message":"Not Found"}`),
		"throttled":   answers(429, `{"message":"Too Many Requests"}`),
		"unavailable": answers(503, problem("unavailable", 503)),
		"cut":         cuts,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, s := serve(t, nil, refused, answers(200, pending), answers(200, resolved))
			v, err := client.Await[int](t.Context(), c, client.Key("k"))
			require.NoError(t, err)
			require.Equal(t, 7, v)
			require.Equal(t, 3, s.count())
			require.Equal(t, "/api/tenants/demo/promises/key:k/wait", s.requests[0].URL.Path)
			require.Equal(t, "/api/tenants/demo/promises/key:k", s.requests[1].URL.Path)
			require.Equal(t, "/api/tenants/demo/promises/"+anyID.String(), s.requests[2].URL.Path, "once found, it goes on by id")
		})
	}
}

// A failure of the first read is returned, although a later one would be outlived.
func TestAwait_FirstReadFails(t *testing.T) {
	t.Parallel()
	c, s := serve(t, []client.Option{client.Attempts(2)}, answers(503, problem("unavailable", 503)))
	_, err := c.Await(t.Context(), anyID)
	require.ErrorIs(t, err, client.CodeUnavailable)
	require.Equal(t, 3, s.count(), "one wait, and two attempts to read")

	c, _ = serve(t, nil, answers(404, problem("not_found", 404)))
	_, err = c.Await(t.Context(), anyID)
	require.ErrorIs(t, err, client.CodeNotFound)
}

// The error after the end of the context names the last failure.
func TestAwait_ContextEnds(t *testing.T) {
	t.Parallel()
	c, _ := serve(t, []client.Option{client.Attempts(1)}, answers(200, pending, "Retry-After", "1"), answers(503, problem("unavailable", 503)))
	ctx, stop := context.WithTimeout(t.Context(), 4*time.Second)
	defer stop()
	_, err := c.Await(ctx, anyID)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.ErrorIs(t, err, client.CodeUnavailable)
}

// A wait beyond the tenant's bound is answered at once, with Retry-After. A pause follows.
func TestAwait_NotCounted_Pauses(t *testing.T) {
	t.Parallel()
	c, s := serve(t, nil, answers(200, pending, "Retry-After", "1"), answers(200, resolved))
	begun := time.Now()
	_, err := c.Await(t.Context(), anyID)
	require.NoError(t, err)
	require.GreaterOrEqual(t, time.Since(begun), time.Second)
	require.Equal(t, 2, s.count())
}

func TestAwait_SettledOtherwise(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		body string
		want error
	}{
		"erased":  {strings.Replace(resolved, `,"value":7`, `,"erasedAt":"2026-01-01T00:00:00Z"`, 1), client.ErrNoValue},
		"another": {strings.Replace(resolved, ":7}", `:"text"}`, 1), nil},
		"legacy":  {strings.Replace(resolved, `"value":7`, `"valueBase64":"AAA="`, 1), nil},
		"null":    {strings.Replace(resolved, ":7}", ":null}", 1), nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, _ := serve(t, nil, answers(200, row.body))
			v, err := client.Await[int](t.Context(), c, anyID)
			require.Zero(t, v)
			switch {
			case name == "null":
				require.NoError(t, err, "null is a value")
			case row.want != nil:
				require.ErrorIs(t, err, row.want)
			default:
				require.Error(t, err)
			}
		})
	}
}

// A waiter outlives a runner that is killed, and one that starts in its place.
func TestAwait_RunnerKilled(t *testing.T) {
	t.Parallel()
	first, err := start(local.DatabaseURL, "127.0.0.1:0")
	require.NoError(t, err)
	c, err := client.New(first.HTTPURL, first.Tenant, first.APIKey)
	require.NoError(t, err)
	id := pendingPromise(c, "survivor").Identifier
	ctx, stop := context.WithTimeout(t.Context(), 3*time.Minute)
	defer stop()
	values := make(chan string, 1)
	var waiter sync.WaitGroup
	waiter.Go(func() {
		v, err := client.Await[string](ctx, c, id)
		values <- v + errorText(err)
	})
	time.Sleep(time.Second) // until the wait has begun; an earlier end would change nothing but the path taken
	first.stop(os.Kill)
	second, err := start(local.DatabaseURL, strings.TrimPrefix(first.HTTPURL, "http://"))
	require.NoError(t, err)
	defer second.stop(os.Interrupt)
	_, err = connect().Resolve(ctx, id, "alive")
	require.NoError(t, err)
	require.Equal(t, "alive", <-values)
	waiter.Wait()
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// One client serves many goroutines at once.
func TestConcurrentUse(t *testing.T) {
	t.Parallel()
	c := connect()
	ctx, stop := context.WithTimeout(t.Context(), 2*time.Minute)
	defer stop()
	errs := make(chan error, 20)
	for n := range 20 {
		go func() {
			created, err := c.Create(ctx, client.Create{Workflow: client.WorkflowID("concurrent"), Name: string(rune('a' + n))})
			if err == nil {
				_, err = c.Resolve(ctx, created.Identifier, n)
			}
			if err == nil {
				var v int
				if v, err = client.Await[int](ctx, c, created.Identifier); err == nil && v != n {
					err = errors.New("another promise's value")
				}
			}
			errs <- err
		}()
	}
	for range 20 {
		require.NoError(t, <-errs)
	}
}
