package gateway_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/promise"
)

// An erased promise and its event show that it was settled, when and by whom, and nothing else.
func TestDelete(t *testing.T) {
	t.Parallel()
	s := newService(t)
	s.promise(t)
	t.Run("a pending promise is not erased", func(t *testing.T) {
		requireProblem(t, 409, "conflict", s.post(t, "delete-promise", "id:"+promiseID, "", ""))
	})
	s.answer(t, "resolve-by-id", payloadByID+`,"value":"secret value","comment":"secret comment"}`)
	before := s.answer(t, "get-promise", payloadByID+"}")
	require.Equal(t, "secret value", before["value"])

	a := s.post(t, "delete-promise", "id:"+promiseID, "", "")
	require.Equal(t, 200, a.StatusCode, a.Body)
	require.NotContains(t, a.Body, "secret")
	got := s.answer(t, "get-promise", payloadByID+"}")
	t.Run("the contents are gone, and all other fields stay", func(t *testing.T) {
		require.NotEmpty(t, got["erasedAt"])
		for _, name := range []string{"value", "comment", "metadata"} {
			require.NotContains(t, got, name)
			delete(before, name)
		}
		before["erasedAt"] = got["erasedAt"]
		require.Equal(t, before, got)
	})
	t.Run("a repeated call has the same answer, in both forms", func(t *testing.T) {
		require.JSONEq(t, a.Body, string(mustDirect(t, s, "delete-promise", payloadByID+"}")))
		require.JSONEq(t, a.Body, s.post(t, "delete-promise", "key:"+idempotencyKey, "", "").Body)
	})
	t.Run("the contents are gone from every list and from the database", func(t *testing.T) {
		events := mustDirect(t, s, "list-events", `{"tenant":"demo","workflowExecutionId":"`+workflowID+`"}`)
		require.NotContains(t, events, "secret")
		require.Contains(t, events, `"erasedAt":"`+got["erasedAt"].(string)+`"`)
		require.NotContains(t, mustDirect(t, s, "list-promises", `{"tenant":"demo"}`), "secret")
		require.NotContains(t, s.snapshot(t), "secret")
	})
	t.Run("a strict settlement conflicts", func(t *testing.T) {
		problem := requireProblem(t, 409, "conflict", s.post(t, "resolve", "id:"+promiseID, "strict=true", `{"value":"secret value"}`))
		require.Equal(t, "resolved", problem["state"])
	})
	for _, scope := range promise.Scopes {
		if scope == promise.ScopeManage {
			continue
		}
		t.Run("not with the scope "+string(scope), func(t *testing.T) {
			event := withAuthorizer(t, httpEvent(t, "DELETE", tenant, "id:"+promiseID, "", ""), keyHolder(tenant, scope).Texts())
			requireProblem(t, 403, "forbidden", respond(t, s.handler(t, "delete-promise"), event))
		})
	}
	t.Run("not with a parameter", func(t *testing.T) {
		requireProblem(t, 400, "invalid_parameter", s.post(t, "delete-promise", "id:"+promiseID, "force=true", ""))
	})
}

func mustDirect(t *testing.T, s *service, function, payload string) string {
	t.Helper()
	got, err := s.direct(t, function, payload)
	require.NoError(t, err)
	return got
}
