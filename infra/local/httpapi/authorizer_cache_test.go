package httpapi_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-lambda-go/events"
	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/infra/local/httpapi"
	"github.com/flovyn/promises/infra/local/lambda"
)

func TestAuthorizerCache(t *testing.T) {
	t.Parallel()
	api := newGuardedAPI(about)
	require.Equal(t, 204, api.do("GET", "/promises/id:1", "a").Code)
	require.Equal(t, 204, api.do("GET", "/promises/id:2?x=y", "a").Code)
	require.Equal(t, 204, api.do("POST", "/promises/id:1/resolve", "a").Code)
	require.Equal(t, 1, api.count("authorize"), "all routes of the authorizer share it")

	require.Equal(t, 204, api.do("POST", "/callbacks/id:1/resolve?token=a", "a").Code)
	require.Equal(t, 204, api.do("GET", "/short", "a").Code)
	require.Equal(t, 3, api.count("authorize"), "authorizers do not, not even of one function")

	require.Equal(t, 204, api.do("GET", "/never", "a").Code)
	require.Equal(t, 204, api.do("GET", "/never", "a").Code)
	require.Equal(t, 5, api.count("authorize"), "no TTL, no cache")

	require.Equal(t, 204, api.do("GET", "/promises/id:1", "A").Code)
	require.Equal(t, 6, api.count("authorize"), "an identity is what it is, byte for byte")
}

func TestAuthorizerCacheExpires(t *testing.T) {
	t.Parallel()
	api := newGuardedAPI(about)
	get := func() int {
		require.Equal(t, 204, api.do("GET", "/promises/id:1", "a").Code)
		require.Equal(t, 204, api.do("GET", "/short", "a").Code)
		return api.count("authorize")
	}
	require.Equal(t, 2, get())
	api.pass(10*time.Second - 1)
	require.Equal(t, 2, get())
	api.pass(1)
	require.Equal(t, 3, get(), "each authorizer has its own TTL")
	api.pass(20*time.Second - 1)
	require.Equal(t, 4, get())
	api.pass(1)
	require.Equal(t, 5, get(), "use does not prolong it")

	denied := false
	api.answer = func(string) (lambda.Result, error) {
		return lambda.Result{Payload: fmt.Appendf(nil, `{"isAuthorized":%t}`, !denied)}, nil
	}
	denied = true
	require.Equal(t, 204, api.do("GET", "/promises/id:1", "a").Code)
	api.pass(30 * time.Second)
	require.Equal(t, 403, api.do("GET", "/promises/id:1", "a").Code)
	denied = false
	require.Equal(t, 403, api.do("GET", "/promises/id:1", "a").Code, "a refusal stands as long")
	api.pass(30 * time.Second)
	require.Equal(t, 204, api.do("GET", "/promises/id:1", "a").Code)
}

// The TTL begins with the answer, however long that took.
func TestAuthorizerCacheBeginsWithTheAnswer(t *testing.T) {
	t.Parallel()
	api := newGuardedAPI(nil)
	api.answer = func(identity string) (lambda.Result, error) {
		api.pass(9 * time.Second)
		return about(identity)
	}
	require.Equal(t, 204, api.do("GET", "/short", "a").Code)
	api.pass(9 * time.Second)
	require.Equal(t, 204, api.do("GET", "/short", "a").Code)
	require.Equal(t, 1, api.count("authorize"))
}

func TestAuthorizerCacheIsBounded(t *testing.T) {
	t.Parallel()
	api := newGuardedAPI(about)
	get := func(i int) int {
		require.Equal(t, 204, api.do("GET", "/promises/id:1", fmt.Sprint("caller ", i)).Code)
		return api.count("authorize")
	}
	for i := range httpapi.MaxCached {
		require.Equal(t, i+1, get(i))
	}
	require.Equal(t, httpapi.MaxCached, get(0), "as many fit")
	require.Equal(t, httpapi.MaxCached+1, get(httpapi.MaxCached))
	require.Equal(t, httpapi.MaxCached+1, get(1))
	require.Equal(t, httpapi.MaxCached+2, get(0), "the oldest made room")
	require.Equal(t, httpapi.MaxCached+3, get(1), "then the next")
	api.pass(time.Minute)
	require.Equal(t, httpapi.MaxCached+4, get(0))
}

// Requests that come before the first answer wait for it. A failure is theirs, too, and nobody's after them.
func TestOneIdentityIsJudgedOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, oneIdentityIsJudgedOnce)
}

func oneIdentityIsJudgedOnce(t *testing.T) {
	begun, judge := make(chan struct{}, 100), make(chan struct{})
	fails := true
	api := newGuardedAPI(func(string) (lambda.Result, error) {
		begun <- struct{}{}
		<-judge
		if fails {
			return lambda.Result{}, errors.New("anything")
		}
		return lambda.Result{Payload: []byte(`{"isAuthorized":true}`)}, nil
	})
	for _, want := range []int{http.StatusInternalServerError, http.StatusNoContent} {
		answers := make(chan int)
		ask := func() { answers <- api.do("GET", "/promises/id:1", "Bearer a").Code }
		go ask()
		<-begun
		for range 20 {
			go ask()
		}
		synctest.Wait() // until all of them wait
		require.Empty(t, begun)
		judge <- struct{}{}
		for range 21 {
			require.Equal(t, want, <-answers)
		}
		fails = false
	}
}

// Every caller gets what was said of them, whoever else calls, at any time and
// through whichever authorizer.
func TestIdentitiesAreNotConfused(t *testing.T) {
	t.Parallel()
	api := newGuardedAPI(func(identity string) (lambda.Result, error) {
		if strings.HasPrefix(identity, "bad") {
			return lambda.Result{Payload: []byte(`{"isAuthorized":false,"context":{"identity":"bad"}}`)}, nil
		}
		return about(identity)
	})
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 50 {
				good, bad := fmt.Sprint("good ", (i+j)%5), fmt.Sprint("bad ", (i+j)%5)
				if code := api.do("GET", "/promises/"+strings.ReplaceAll(good, " ", "-"), good).Code; code != 204 {
					t.Errorf("%s: %d", good, code)
				}
				if code := api.do("GET", "/promises/bad", bad).Code; code != 403 {
					t.Errorf("%s: %d", bad, code)
				}
				if j%10 == 0 {
					api.pass(10 * time.Second)
				}
			}
		})
	}
	wg.Wait()
	require.Len(t, api.calls["get"], 400)
	for _, req := range api.calls["get"] {
		var e events.APIGatewayV2HTTPRequest
		require.NoError(t, json.Unmarshal(req.Payload, &e))
		require.Equal(t, e.Headers["authorization"], e.RequestContext.Authorizer.Lambda["identity"])
		require.Equal(t, "/promises/"+strings.ReplaceAll(e.Headers["authorization"], " ", "-"), e.RawPath)
	}
}
