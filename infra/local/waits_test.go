package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/skip"
)

// Waiting calls beyond a function's concurrency get 503. The other functions still run, so the promise can be settled, and then every
// waiting call gets the result.
func TestWaitsBeyondConcurrency(t *testing.T) {
	t.Parallel()
	var waiting sync.WaitGroup
	t.Cleanup(waiting.Wait) // after the runner has stopped
	r := startRunner(t)
	r.exec(t, "UPDATE tenant SET max_waits = 1000")
	workflow := uuid.NewString()
	status, p := r.call(t, "POST", "/promises", fmt.Sprintf(`{"workflowExecutionId":%q,"name":"payment"}`, workflow))
	require.Equal(t, 201, status, "%v %s", p, &r.stderr)
	promise := "/promises/id:" + p["promiseId"].(string)
	const each, accepted = concurrency + 6, concurrency // calls of each of two functions, and how many of them may wait
	var answered, refused atomic.Int32
	for path, want := range map[string]string{
		promise + "/wait?waitSeconds=25":                                 `"state":"resolved"`,
		"/workflows/" + workflow + "/events/wait?after=1&waitSeconds=25": `"eventType":"PROMISE_RESOLVED"`,
	} {
		for range each {
			waiting.Go(func() {
				for {
					status, body, err := r.get(path)
					switch {
					case err == nil && status == 200 && strings.Contains(body, want):
						answered.Add(1)
					case err == nil && status == 503:
						refused.Add(1)
					case err == nil && status == 200 && t.Context().Err() == nil:
						continue // its 25 seconds ended before the other calls had started
					default:
						assert.Fail(t, "neither answered nor refused", "%d %s %v", status, body, err)
					}
					return
				}
			})
		}
	}
	require.Eventually(t, func() bool { return refused.Load() == 2*(each-accepted) }, 2*time.Minute, time.Millisecond,
		"the other calls are waiting")
	for range 5 {
		status, p = r.call(t, "POST", "/promises", fmt.Sprintf(`{"workflowExecutionId":%q,"name":"other"}`, uuid.NewString()))
		require.Equal(t, 201, status, "%v %s", p, &r.stderr)
	}
	status, p = r.call(t, "POST", promise+"/resolve", `{"value":1}`)
	require.Equal(t, 200, status, "%v %s", p, &r.stderr)
	require.Equal(t, "settled", p["outcome"])
	waiting.Wait()
	require.EqualValues(t, 2*accepted, answered.Load())
	r.stop(t, syscall.SIGTERM)
}

// exec runs a statement in the runner's database.
func (r *runner) exec(t *testing.T, sql string, args ...any) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), r.ready.DatabaseURL)
	require.NoError(t, err)
	defer conn.Close(t.Context()) //nolint:errcheck // the statement has run
	_, err = conn.Exec(t.Context(), sql, args...)
	require.NoError(t, err)
}

// waitCount returns the number of the tenant's calls that count as waiting.
func (r *runner) waitCount(t *testing.T, slug string) (n int) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), r.ready.DatabaseURL)
	require.NoError(t, err)
	defer conn.Close(t.Context()) //nolint:errcheck // nothing is lost with it
	require.NoError(t, conn.QueryRow(t.Context(),
		"SELECT COUNT(*) FROM tenant_wait w JOIN tenant t ON t.id = w.tenant_id WHERE t.slug = $1 AND w.expires_at > NOW()", slug).Scan(&n))
	return n
}

// newTenant creates a tenant with an API key and returns a client for it.
func (r *runner) newTenant(t *testing.T, slug string) *tenantClient {
	t.Helper()
	require.Nil(t, r.lambda(t, "manage-tenants", `{"action":"create-tenant","slug":"`+slug+`"}`).FunctionError)
	var key struct{ APIKey string }
	made := r.lambda(t, "manage-tenants", `{"action":"create-key","tenant":"`+slug+`","name":"test","scopes":["create","settle","read"]}`)
	require.NoError(t, json.Unmarshal(made.Payload, &key))
	return &tenantClient{url: r.ready.HTTPURL + "/api/tenants/" + slug, key: key.APIKey}
}

// A tenantClient calls the API for one tenant.
type tenantClient struct{ url, key string }

// do makes a call and returns the status, the Retry-After header and the body.
func (n *tenantClient) do(method, path, body string) (status int, retryAfter, text string, err error) {
	req, err := http.NewRequest(method, n.url+path, strings.NewReader(body))
	if err != nil {
		return 0, "", "", err
	}
	req.Header.Set("Authorization", "Bearer "+n.key)
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, "", "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp.StatusCode, resp.Header.Get("Retry-After"), string(b), err
}

// create creates a pending promise in a new workflow execution.
func (n *tenantClient) create(t *testing.T) (id, workflow string) {
	t.Helper()
	workflow = uuid.NewString()
	status, _, text, err := n.do("POST", "/promises", fmt.Sprintf(`{"workflowExecutionId":%q,"name":"payment"}`, workflow))
	require.NoError(t, err)
	require.Equal(t, 201, status, text)
	var p struct{ PromiseID string }
	require.NoError(t, json.Unmarshal([]byte(text), &p))
	return p.PromiseID, workflow
}

// One tenant's waiting calls do not block another tenant's reads, waits and settlements. Both wait functions and all their processes
// share the tenant's bound. A waiting call beyond the bound is answered at once.
func TestOneTenantsWaitsDoNotBlockAnother(t *testing.T) {
	t.Parallel()
	var waits sync.WaitGroup
	t.Cleanup(waits.Wait) // after the runner has stopped
	r := startRunner(t)
	hostile, honest := r.newTenant(t, "hostile"), r.newTenant(t, "honest")
	id, workflow := hostile.create(t)
	ended := make(chan struct{})
	var atOnce, served atomic.Int32
	for n := range 40 {
		path := "/promises/id:" + id + "/wait?waitSeconds=25"
		if n%2 == 0 {
			path = "/workflows/" + workflow + "/events/wait?after=1&waitSeconds=25"
		}
		waits.Go(func() {
			for {
				status, retryAfter, text, err := hostile.do("GET", path, "")
				switch {
				case err != nil:
					return // the runner has stopped
				case status == 200 && retryAfter == "5":
					atOnce.Add(1)
				case status == 200:
					served.Add(1)
				case status != 503: // the tenant's other calls may occupy the function's concurrency
					assert.Fail(t, "unexpected status", "%d %s", status, text)
				}
				select {
				case <-ended:
					return
				case <-time.After(50 * time.Millisecond):
				}
			}
		})
	}
	require.Eventually(t, func() bool { return r.waitCount(t, "hostile") >= 20 && atOnce.Load() > 0 }, 2*time.Minute, 10*time.Millisecond)
	for range 5 {
		promise, workflow := honest.create(t)
		woken := make(chan string, 2)
		for _, path := range []string{"/promises/id:" + promise + "/wait", "/workflows/" + workflow + "/events/wait?after=1"} {
			go func() {
				for {
					status, _, text, err := honest.do("GET", path, "")
					if err == nil && status == 200 && !strings.Contains(text, "resolved") && t.Context().Err() == nil {
						continue // its 20 seconds have ended
					}
					woken <- fmt.Sprint(status, " ", text, err)
					return
				}
			}()
		}
		require.Eventually(t, func() bool { return r.waitCount(t, "honest") == 2 }, time.Minute, 10*time.Millisecond)
		for _, path := range []string{"/promises/id:" + promise, "/workflows/" + workflow + "/events", "/promises?state=pending"} {
			status, _, text, err := honest.do("GET", path, "")
			require.NoError(t, err)
			require.Equal(t, 200, status, text)
		}
		status, _, text, err := honest.do("POST", "/promises/id:"+promise+"/resolve", `{"value":1}`)
		require.NoError(t, err)
		require.Equal(t, 200, status, text)
		for range 2 {
			text := <-woken
			require.True(t, strings.HasPrefix(text, "200 "), text)
			require.Contains(t, text, `"state":"resolved"`)
		}
	}
	require.Eventually(t, func() bool { return r.waitCount(t, "hostile") <= 20 }, time.Minute, 10*time.Millisecond, "waits that began at the same time may exceed the bound, but end soon")
	close(ended)
	status, _, text, err := hostile.do("POST", "/promises/id:"+id+"/resolve", `{"value":1}`)
	require.NoError(t, err)
	require.Equal(t, 200, status, text)
	require.Eventually(t, func() bool { return r.waitCount(t, "hostile") == 0 }, time.Minute, 10*time.Millisecond, "every wait has ended")
	require.Positive(t, served.Load())
	r.stop(t, syscall.SIGTERM)
}

// If a waiting process is killed, its row in tenant_wait counts until it expires. A later wait deletes it.
func TestKilledWaitExpires(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		skip.Now(t, "the functions' processes are found in /proc")
	}
	r := startRunner(t)
	tenant := r.newTenant(t, "acme")
	r.exec(t, "UPDATE tenant SET max_waits = 1")
	id, _ := tenant.create(t)
	path := "/promises/id:" + id + "/wait?waitSeconds=25"
	killed := make(chan int, 1)
	go func() {
		status, _, _, err := tenant.do("GET", path, "")
		assert.NoError(t, err)
		killed <- status
	}()
	require.Eventually(t, func() bool { return r.waitCount(t, "acme") == 1 }, time.Minute, 10*time.Millisecond)
	for _, pid := range r.functionPIDs() {
		if target, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid)); err == nil && strings.Contains(target, "wait-promise") {
			require.NoError(t, syscall.Kill(pid, syscall.SIGKILL))
		}
	}
	t.Run("the killed call gets 500", func(t *testing.T) { require.Equal(t, 500, <-killed) })
	t.Run("its row still counts", func(t *testing.T) {
		require.Equal(t, 1, r.waitCount(t, "acme"))
		status, retryAfter, text, err := tenant.do("GET", path, "")
		require.NoError(t, err)
		require.Equal(t, "200 5", fmt.Sprint(status, " ", retryAfter), text)
	})
	r.exec(t, "UPDATE tenant_wait SET expires_at = NOW()")
	t.Run("an expired row does not count, and the next wait deletes it", func(t *testing.T) {
		status, retryAfter, text, err := tenant.do("GET", strings.TrimSuffix(path, "25")+"1", "")
		require.NoError(t, err)
		require.Equal(t, "200 ", fmt.Sprint(status, " ", retryAfter), text)
		require.Zero(t, r.rowCount(t, "tenant_wait"), "the wait has deleted the expired row and its own")
	})
	r.stop(t, syscall.SIGTERM)
}
