package gateway_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/promise"
)

// An erased promise shows that it was settled, when and by whom, and nothing else; its event does as much.
func TestDelete(t *testing.T) {
	t.Parallel()
	s := newService(t)
	s.promise(t)
	requireProblem(t, 409, "conflict", s.post(t, "delete-promise", "id:"+promiseID, "", ""))
	s.answer(t, "resolve-by-id", payloadByID+`,"value":"secret value","comment":"secret comment"}`)
	before := s.answer(t, "get-promise", payloadByID+"}")
	require.Equal(t, "secret value", before["value"])

	a := s.post(t, "delete-promise", "id:"+promiseID, "", "")
	require.Equal(t, 200, a.StatusCode, a.Body)
	require.NotContains(t, a.Body, "secret")
	got := s.answer(t, "get-promise", payloadByID+"}")
	require.NotEmpty(t, got["erasedAt"])
	for _, name := range []string{"value", "comment", "metadata"} {
		require.NotContains(t, got, name)
		delete(before, name)
	}
	before["erasedAt"] = got["erasedAt"]
	require.Equal(t, before, got, "all else is as it was")
	require.JSONEq(t, a.Body, string(mustDirect(t, s, "delete-promise", payloadByID+"}")), "again, in the other form")
	require.JSONEq(t, a.Body, s.post(t, "delete-promise", "key:"+idempotencyKey, "", "").Body)

	events := mustDirect(t, s, "list-events", `{"tenant":"demo","workflowExecutionId":"`+workflowID+`"}`)
	require.NotContains(t, events, "secret")
	require.Contains(t, events, `"erasedAt":"`+got["erasedAt"].(string)+`"`)
	require.NotContains(t, mustDirect(t, s, "list-promises", `{"tenant":"demo"}`), "secret")
	require.NotContains(t, s.snapshot(t), "secret")

	problem := requireProblem(t, 409, "conflict", s.post(t, "resolve", "id:"+promiseID, "strict=true", `{"value":"secret value"}`))
	require.Equal(t, "resolved", problem["state"])
	for _, scope := range promise.Scopes {
		if scope != promise.ScopeManage {
			got, err := s.handler(t, "delete-promise").Invoke(t.Context(), withAuthorizer(t, httpEvent(t, "DELETE", tenant, "id:"+promiseID, "", ""), keyHolder(tenant, scope).Texts()))
			require.NoError(t, err)
			requireProblem(t, 403, "forbidden", decodeResponse(t, got))
		}
	}
	requireProblem(t, 400, "invalid_parameter", s.post(t, "delete-promise", "id:"+promiseID, "force=true", ""))
}

func mustDirect(t *testing.T, s *service, function, payload string) string {
	t.Helper()
	got, err := s.direct(t, function, payload)
	require.NoError(t, err)
	return got
}
