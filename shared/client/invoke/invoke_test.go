package invoke_test

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/client"
	"github.com/flovyn/promises/shared/client/invoke"
)

// A reply is an answer of the Lambda API.
type reply struct {
	status       int
	code         string // of an error of Lambda
	functionFail bool
	body         string
}

const (
	pending  = `{"promiseId":"3f0c1c9e-8f4b-4c57-9a1e-3b1c2d4e5f60","state":"pending"}`
	resolved = `{"promiseId":"3f0c1c9e-8f4b-4c57-9a1e-3b1c2d4e5f60","state":"resolved","value":7}`
)

var anyID = client.ID(uuid.MustParse("3f0c1c9e-8f4b-4c57-9a1e-3b1c2d4e5f60"))

// A fakeLambda gives its replies in turn, the last one for ever, and records the functions that were invoked.
type fakeLambda struct {
	mu      sync.Mutex
	replies []reply
	names   []string
	payload string
}

func (f *fakeLambda) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body) // a broken request fails the test by its payload
	f.mu.Lock()
	f.payload, f.names = string(body), append(f.names, strings.Split(r.URL.Path, "/")[3])
	a := f.replies[min(len(f.names), len(f.replies))-1]
	f.mu.Unlock()
	if a.status == 0 {
		panic(http.ErrAbortHandler)
	}
	if a.code != "" {
		w.Header().Set("X-Amzn-Errortype", a.code)
	}
	if a.functionFail {
		w.Header().Set("X-Amz-Function-Error", "Unhandled")
	}
	w.WriteHeader(a.status)
	io.WriteString(w, a.body) //nolint:errcheck // the caller has left
}

// invoked returns the names of the functions that were invoked, and the last payload.
func (f *fakeLambda) invoked() (names []string, payload string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.names), f.payload
}

func serve(t *testing.T, replies ...reply) (*client.Client, *fakeLambda) {
	t.Helper()
	f := &fakeLambda{replies: replies}
	server := httptest.NewServer(f)
	t.Cleanup(server.Close)
	return clientOf(server.URL), f
}

func clientOf(url string) *client.Client {
	api := lambda.New(lambda.Options{
		Region: "eu-central-1", BaseEndpoint: aws.String(url), Credentials: credentials.NewStaticCredentialsProvider("key", "hunter2", ""),
	})
	return invoke.New(api, "acme", "promises-dev-", client.Backoff(time.Millisecond, time.Millisecond), client.Attempts(3))
}

var (
	crash   = reply{status: 200, functionFail: true, body: `{"errorType":"Runtime.ExitError","errorMessage":"exit status 2"}`}
	timeout = reply{status: 200, functionFail: true, body: `{"errorType":"Sandbox.Timedout","errorMessage":"RequestId: x Error: Task timed out after 10.00 seconds"}`}
	away    = reply{status: 200, functionFail: true, body: `{"errorType":"unavailable","errorMessage":"{\"code\":\"unavailable\",\"status\":503,\"detail\":\"D.\"}"}`}
	missing = reply{status: 200, functionFail: true, body: `{"errorType":"not_found","errorMessage":"{\"code\":\"not_found\",\"status\":404,\"detail\":\"D.\"}"}`}
	busy    = reply{status: 429, code: "TooManyRequestsException", body: `{"Reason":"ConcurrentInvocationLimitExceeded","message":"Rate Exceeded."}`}
	broken  = reply{status: 500, code: "ServiceException", body: `{"Message":"x"}`}
	denied  = reply{status: 403, code: "AccessDeniedException", body: `{"Message":"x"}`}
	unknown = reply{status: 404, code: "ResourceNotFoundException", body: `{"Message":"x"}`}
	large   = reply{status: 413, code: "RequestTooLargeException", body: `{"Message":"x"}`}
)

// Each failure has the code of the same failure over HTTP. Only a failure that may pass is repeated, by the client and not by the SDK.
func TestErrors(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		reply        reply
		code         client.Code
		status       int
		invocations  int
		maybeApplied bool
	}{
		"a function crashed":           {crash, client.CodeUnavailable, 504, 3, true},
		"a function ran out of time":   {timeout, client.CodeUnavailable, 504, 3, true},
		"the database is unavailable":  {away, client.CodeUnavailable, 503, 3, true},
		"a problem":                    {missing, client.CodeNotFound, 404, 1, false},
		"too many invocations":         {busy, client.CodeUnavailable, 429, 3, false},
		"Lambda failed":                {broken, client.CodeUnavailable, 500, 3, true},
		"the role may not invoke it":   {denied, client.CodeForbidden, 403, 1, false},
		"there is no such function":    {unknown, "", 404, 1, false},
		"the payload is too large":     {large, client.CodeValueTooLarge, 413, 1, false},
		"the connection was cut":       {reply{}, client.CodeUnavailable, 0, 3, true},
		"the answer is no JSON at all": {reply{status: 200, body: "<html>"}, "", 0, 1, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, f := serve(t, row.reply)
			_, err := c.Get(t.Context(), anyID)
			e, ok := errors.AsType[*client.Error](err)
			require.True(t, ok, "%v", err)
			require.Equal(t, row.code, e.Code)
			require.Equal(t, row.status, e.Status)
			require.Equal(t, row.maybeApplied, e.MaybeApplied)
			names, _ := f.invoked()
			require.Len(t, names, row.invocations)
			require.Contains(t, err.Error(), "promises: get-promise: ")
			require.NotContains(t, err.Error(), "hunter2")
		})
	}
}

func TestRepeated(t *testing.T) {
	t.Parallel()
	c, f := serve(t, busy, crash, reply{status: 200, body: pending})
	p, err := c.Get(t.Context(), client.Key("a/b"))
	require.NoError(t, err)
	require.Equal(t, client.Pending, p.State)
	names, payload := f.invoked()
	require.Equal(t, []string{"promises-dev-get-promise", "promises-dev-get-promise", "promises-dev-get-promise"}, names)
	require.Equal(t, `{"tenant":"acme","key":"a/b"}`, payload)
}

// A role that may not invoke wait-promise reads with get-promise.
func TestAwait_WaitDenied(t *testing.T) {
	t.Parallel()
	for name, refusal := range map[string]reply{"denied": denied, "no such function": unknown, "too many waits": busy} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, f := serve(t, refusal, reply{status: 200, body: resolved})
			v, err := client.Await[int](t.Context(), c, anyID)
			require.NoError(t, err)
			require.Equal(t, 7, v)
			names, _ := f.invoked()
			require.Equal(t, []string{"promises-dev-wait-promise", "promises-dev-get-promise"}, names)
		})
	}
}

// The engines' policy allows resolve-by-id and resolve-by-key, and not resolve.
func TestResolve_NamesTheFunctionByTheIdentifier(t *testing.T) {
	t.Parallel()
	c, f := serve(t, reply{status: 200, body: `{"outcome":"settled"}`})
	for _, id := range []client.Identifier{anyID, client.Key("k")} {
		_, err := c.Resolve(t.Context(), id, 1, client.Strict())
		require.NoError(t, err)
	}
	names, payload := f.invoked()
	require.Equal(t, []string{"promises-dev-resolve-by-id", "promises-dev-resolve-by-key"}, names)
	require.Equal(t, `{"tenant":"acme","key":"k","strict":true,"value":1}`, payload)
}
