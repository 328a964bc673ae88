package main

import (
	"fmt"
	"path/filepath"
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
	r := begin(t, "", []string{local}, "--data", filepath.Join(folder(t), "data")).await(t)
	workflow := uuid.NewString()
	status, p := r.call(t, "POST", "/promises", fmt.Sprintf(`{"workflowExecutionId":%q,"name":"payment"}`, workflow))
	require.Equal(t, 201, status, "%v %s", p, &r.stderr)
	promise := "/promises/id:" + p["promiseId"].(string)
	const each = 35
	var told, refused atomic.Int32
	var waiting sync.WaitGroup
	for path, news := range map[string]string{
		promise + "?waitSeconds=25":                                 `"state":"resolved"`,
		"/workflows/" + workflow + "/events?after=1&waitSeconds=25": `"eventType":"PROMISE_RESOLVED"`,
	} {
		for range each {
			waiting.Go(func() {
				status, body := request(t, "GET", r.promises(path), "Bearer "+r.ready.APIKey, "")
				switch status {
				case 200:
					assert.Contains(t, body, news)
					told.Add(1)
				case 503:
					refused.Add(1)
				default:
					assert.Fail(t, "neither told nor refused", "%d %s", status, body)
				}
			})
		}
	}
	require.Eventually(t, func() bool { return refused.Load() >= 2 }, 20*time.Second, time.Millisecond, "no house is full")
	for range 5 {
		status, p = r.call(t, "POST", "/promises", fmt.Sprintf(`{"workflowExecutionId":%q,"name":"other"}`, uuid.NewString()))
		require.Equal(t, 201, status, "%v %s", p, &r.stderr)
	}
	status, p = r.call(t, "POST", promise+"/resolve", `{"value":1}`)
	require.Equal(t, 200, status, "%v %s", p, &r.stderr)
	require.Equal(t, "settled", p["outcome"])
	waiting.Wait()
	require.EqualValues(t, 2*each, told.Load()+refused.Load())
	require.Positive(t, told.Load())
	r.end(t, syscall.SIGTERM)
}
