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

// However many wait for a promise, it can be settled; then all who wait are told. Those for whom there is no room are told so.
func TestWaitsLeaveRoom(t *testing.T) {
	t.Parallel()
	var waiting sync.WaitGroup
	t.Cleanup(waiting.Wait) // when the runner has gone
	r := startRunner(t)
	r.exec(t, "UPDATE tenant SET max_waits = 1000")
	workflow := uuid.NewString()
	status, p := r.call(t, "POST", "/promises", fmt.Sprintf(`{"workflowExecutionId":%q,"name":"payment"}`, workflow))
	require.Equal(t, 201, status, "%v %s", p, &r.stderr)
	promise := "/promises/id:" + p["promiseId"].(string)
	const each, places = concurrency + 6, concurrency // those who wait in each of two functions, and those whom it has room for
	var told, refused atomic.Int32
	for path, news := range map[string]string{
		promise + "/wait?waitSeconds=25":                                 `"state":"resolved"`,
		"/workflows/" + workflow + "/events/wait?after=1&waitSeconds=25": `"eventType":"PROMISE_RESOLVED"`,
	} {
		for range each {
			waiting.Go(func() {
				for {
					status, body, err := r.get(path)
					switch {
					case err == nil && status == 200 && strings.Contains(body, news):
						told.Add(1)
					case err == nil && status == 503:
						refused.Add(1)
					case err == nil && status == 200 && t.Context().Err() == nil:
						continue // its 25 seconds were over before the others came
					default:
						assert.Fail(t, "neither told nor refused", "%d %s %v", status, body, err)
					}
					return
				}
			})
		}
	}
	require.Eventually(t, func() bool { return refused.Load() == 2*(each-places) }, 2*time.Minute, time.Millisecond,
		"the others are waiting")
	for range 5 {
		status, p = r.call(t, "POST", "/promises", fmt.Sprintf(`{"workflowExecutionId":%q,"name":"other"}`, uuid.NewString()))
		require.Equal(t, 201, status, "%v %s", p, &r.stderr)
	}
	status, p = r.call(t, "POST", promise+"/resolve", `{"value":1}`)
	require.Equal(t, 200, status, "%v %s", p, &r.stderr)
	require.Equal(t, "settled", p["outcome"])
	waiting.Wait()
	require.EqualValues(t, 2*places, told.Load())
	r.stop(t, syscall.SIGTERM)
}

// exec runs a statement in the runner's database.
func (r *runner) exec(t *testing.T, sql string, args ...any) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), r.ready.DatabaseURL)
	require.NoError(t, err)
	defer conn.Close(t.Context()) //nolint:errcheck // the statement is done
	_, err = conn.Exec(t.Context(), sql, args...)
	require.NoError(t, err)
}

// waiting is how many of the tenant's calls are counted as waiting.
func (r *runner) waitCount(t *testing.T, slug string) (n int) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), r.ready.DatabaseURL)
	require.NoError(t, err)
	defer conn.Close(t.Context()) //nolint:errcheck // it is only read from
	require.NoError(t, conn.QueryRow(t.Context(),
		"SELECT COUNT(*) FROM tenant_wait w JOIN tenant t ON t.id = w.tenant_id WHERE t.slug = $1 AND w.expires_at > NOW()", slug).Scan(&n))
	return n
}

// as makes the same runner's calls those of another tenant, with a key of its own.
func (r *runner) newTenant(t *testing.T, slug string) *tenantClient {
	t.Helper()
	require.Nil(t, r.lambda(t, "manage-tenants", `{"action":"create-tenant","slug":"`+slug+`"}`).FunctionError)
	var key struct{ APIKey string }
	made := r.lambda(t, "manage-tenants", `{"action":"create-key","tenant":"`+slug+`","name":"test","scopes":["create","settle","read"]}`)
	require.NoError(t, json.Unmarshal(made.Payload, &key))
	return &tenantClient{url: r.ready.HTTPURL + "/api/tenants/" + slug, key: key.APIKey}
}

// tenantClient is a tenant beside others.
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

// create makes a pending promise in a workflow execution of its own.
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

// However many of one tenant's calls wait, another tenant's reads, waits and settlements are served. The tenant's waits beyond its
// bound, which counts both functions and all processes together, are answered at once.
func TestOneTenantsWaitsLeaveRoomForAnother(t *testing.T) {
	t.Parallel()
	var waits sync.WaitGroup
	t.Cleanup(waits.Wait) // when the runner has gone
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
					return // the runner has gone
				case status == 200 && retryAfter == "5":
					atOnce.Add(1)
				case status == 200:
					served.Add(1)
				case status != 503: // its own other calls have all places of the function
					assert.Fail(t, "refused", "%d %s", status, text)
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
						continue // its 20 seconds were over
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
	require.Eventually(t, func() bool { return r.waitCount(t, "hostile") <= 20 }, time.Minute, 10*time.Millisecond, "those that began at the same time end soon")
	close(ended)
	status, _, text, err := hostile.do("POST", "/promises/id:"+id+"/resolve", `{"value":1}`)
	require.NoError(t, err)
	require.Equal(t, 200, status, text)
	require.Eventually(t, func() bool { return r.waitCount(t, "hostile") == 0 }, time.Minute, 10*time.Millisecond, "every wait has ended")
	require.Positive(t, served.Load())
	r.stop(t, syscall.SIGTERM)
}

// A process that is killed while it waits leaves its row, which counts until it expires and is deleted by a later wait.
func TestAKilledWaitExpires(t *testing.T) {
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
	require.Equal(t, 500, <-killed)
	require.Equal(t, 1, r.waitCount(t, "acme"))
	status, retryAfter, text, err := tenant.do("GET", path, "")
	require.NoError(t, err)
	require.Equal(t, "200 5", fmt.Sprint(status, " ", retryAfter), text)
	r.exec(t, "UPDATE tenant_wait SET expires_at = NOW()")
	status, retryAfter, text, err = tenant.do("GET", strings.TrimSuffix(path, "25")+"1", "")
	require.NoError(t, err)
	require.Equal(t, "200 ", fmt.Sprint(status, " ", retryAfter), text)
	require.Zero(t, r.rowCount(t, "tenant_wait"), "the wait has deleted the expired row and its own")
	r.stop(t, syscall.SIGTERM)
}
