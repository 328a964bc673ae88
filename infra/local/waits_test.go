package main

import (
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// However many wait for a promise, it can be settled; then all who wait are told. Those for whom there is no room are told so.
func TestWaitsLeaveRoom(t *testing.T) {
	t.Parallel()
	var waiting sync.WaitGroup
	t.Cleanup(waiting.Wait) // when the runner has gone
	r := begin(t, "", []string{local}, "--data", filepath.Join(folder(t), "data")).await(t)
	workflow := uuid.NewString()
	status, p := r.call(t, "POST", "/promises", fmt.Sprintf(`{"workflowExecutionId":%q,"name":"payment"}`, workflow))
	require.Equal(t, 201, status, "%v %s", p, &r.stderr)
	promise := "/promises/id:" + p["promiseId"].(string)
	const each, places = 30, 24 // those who wait in each of two functions, and those whom it has room for
	var told, refused atomic.Int32
	for path, news := range map[string]string{
		promise + "?waitSeconds=25":                                 `"state":"resolved"`,
		"/workflows/" + workflow + "/events?after=1&waitSeconds=25": `"eventType":"PROMISE_RESOLVED"`,
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
	r.end(t, syscall.SIGTERM)
}

// get reads a path of the demo tenant.
func (r *runner) get(path string) (status int, body string, err error) {
	req, err := http.NewRequest(http.MethodGet, r.promises(path), nil)
	if err != nil {
		return 0, "", err
	}
	req.Header.Set("Authorization", "Bearer "+r.ready.APIKey)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b), err
}
