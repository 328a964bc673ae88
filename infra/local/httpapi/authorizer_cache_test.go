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
	for name, c := range map[string]struct {
		requests   []string // each with the Authorization header a, unless another one follows
		authorized int
	}{
		"all routes of an authorizer share its cache": {[]string{"GET /promises/id:1", "GET /promises/id:2?x=y", "POST /promises/id:1/resolve"}, 1},
		"authorizers share no cache, even with one function": {
			[]string{"GET /promises/id:1", "POST /callbacks/id:1/resolve?token=a", "GET /short"}, 3},
		"without a TTL there is no cache":  {[]string{"GET /never", "GET /never"}, 2},
		"identities are compared as bytes": {[]string{"GET /promises/id:1", "GET /promises/id:1 A"}, 2},
	} {
		t.Run(name, func(t *testing.T) {
			api := newGuardedAPI(allow)
			for _, request := range c.requests {
				parts := append(strings.Split(request, " "), "a")
				require.Equal(t, 204, api.do(parts[0], parts[1], parts[2]).Code)
			}
			require.Equal(t, c.authorized, api.count("authorize"))
		})
	}
}

func TestAuthorizerCacheExpires(t *testing.T) {
	t.Parallel()
	api := newGuardedAPI(allow)
	get := func() int {
		require.Equal(t, 204, api.do("GET", "/promises/id:1", "a").Code)
		require.Equal(t, 204, api.do("GET", "/short", "a").Code)
		return api.count("authorize")
	}
	require.Equal(t, 2, get())
	api.advance(10*time.Second - 1)
	require.Equal(t, 2, get())
	api.advance(1)
	require.Equal(t, 3, get(), "each authorizer has its own TTL")
	api.advance(20*time.Second - 1)
	require.Equal(t, 4, get())
	api.advance(1)
	require.Equal(t, 5, get(), "use does not extend the TTL")
}

func TestAuthorizerCache_DenialExpiresToo(t *testing.T) {
	t.Parallel()
	denied := false
	api := newGuardedAPI(func(string) (lambda.Result, error) {
		return lambda.Result{Payload: fmt.Appendf(nil, `{"isAuthorized":%t}`, !denied)}, nil
	})
	require.Equal(t, 204, api.do("GET", "/promises/id:1", "a").Code)
	denied = true
	require.Equal(t, 204, api.do("GET", "/promises/id:1", "a").Code, "the cached decision still applies")
	api.advance(30 * time.Second)
	require.Equal(t, 403, api.do("GET", "/promises/id:1", "a").Code)
	denied = false
	require.Equal(t, 403, api.do("GET", "/promises/id:1", "a").Code, "a denial is cached for as long")
	api.advance(30 * time.Second)
	require.Equal(t, 204, api.do("GET", "/promises/id:1", "a").Code)
}

// The TTL starts when the authorizer returns, and not when it is invoked.
func TestAuthorizerCacheStartsWithTheDecision(t *testing.T) {
	t.Parallel()
	api := newGuardedAPI(nil)
	api.answer = func(identity string) (lambda.Result, error) {
		api.advance(9 * time.Second)
		return allow(identity)
	}
	require.Equal(t, 204, api.do("GET", "/short", "a").Code)
	api.advance(9 * time.Second)
	require.Equal(t, 204, api.do("GET", "/short", "a").Code)
	require.Equal(t, 1, api.count("authorize"))
}

func TestAuthorizerCacheIsBounded(t *testing.T) {
	t.Parallel()
	api := newGuardedAPI(allow)
	get := func(i int) int {
		require.Equal(t, 204, api.do("GET", "/promises/id:1", fmt.Sprint("caller ", i)).Code)
		return api.count("authorize")
	}
	for i := range httpapi.MaxCached {
		require.Equal(t, i+1, get(i))
	}
	require.Equal(t, httpapi.MaxCached, get(0), "the cache holds them all")
	require.Equal(t, httpapi.MaxCached+1, get(httpapi.MaxCached))
	require.Equal(t, httpapi.MaxCached+1, get(1))
	require.Equal(t, httpapi.MaxCached+2, get(0), "the oldest decision was replaced")
	require.Equal(t, httpapi.MaxCached+3, get(1), "then the second oldest")
	api.advance(time.Minute)
	require.Equal(t, httpapi.MaxCached+4, get(0))
}

// Requests of one identity that arrive before the first decision wait for it. They share its failure too, but later requests do
// not.
func TestConcurrentRequestsShareOneDecision(t *testing.T) {
	t.Parallel()
	synctest.Test(t, concurrentRequestsShareOneDecision)
}

func concurrentRequestsShareOneDecision(t *testing.T) {
	begun, decide := make(chan struct{}, 100), make(chan struct{})
	fails := true
	api := newGuardedAPI(func(string) (lambda.Result, error) {
		begun <- struct{}{}
		<-decide
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
		synctest.Wait() // until all requests wait
		require.Empty(t, begun)
		decide <- struct{}{}
		for range 21 {
			require.Equal(t, want, <-answers)
		}
		fails = false
	}
}

// Each caller gets the decision about its own identity while others call at the same time and decisions expire.
func TestIdentitiesAreNotConfused(t *testing.T) {
	t.Parallel()
	api := newGuardedAPI(func(identity string) (lambda.Result, error) {
		if strings.HasPrefix(identity, "bad") {
			return lambda.Result{Payload: []byte(`{"isAuthorized":false,"context":{"identity":"bad"}}`)}, nil
		}
		return allow(identity)
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
					api.advance(10 * time.Second)
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
