package gateway_test

import (
	"encoding/json"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/promise"
)

func TestDeliveriesOfGetPromise(t *testing.T) {
	t.Parallel()
	s := newService(t)
	s.promise(t)
	t.Run("a promise without targets has no deliveries", func(t *testing.T) {
		require.NotContains(t, s.answer(t, "get-promise", payloadByID+"}"), "deliveries")
	})
	s.delivery(t, deliveryID, promise.DeliveryDead)
	for _, function := range []string{"get-promise", "wait-promise"} {
		t.Run(function, func(t *testing.T) {
			payload := payloadByID + "}"
			if function == "wait-promise" {
				payload = payloadByID + `,"waitSeconds":0}`
			}
			d := s.answer(t, function, payload)["deliveries"].([]any)[0].(map[string]any)
			for _, name := range []string{"createdAt", "lastAttemptAt", "endedAt"} {
				require.Regexp(t, `^20\d\d-.*Z$`, d[name])
				delete(d, name)
			}
			require.Equal(t, map[string]any{
				"deliveryId": deliveryID, "destination": "orders", "kind": "https", "state": "dead", "attempts": 11.0, "lastStatus": 503.0,
				"lastError": "CONTENTS of the answer",
			}, d)
		})
	}
	t.Run("the order is that of the targets", func(t *testing.T) {
		second := uuid.NewString()
		s.delivery(t, second, promise.DeliveryWaiting)
		all := s.answer(t, "get-promise", payloadByID+"}")["deliveries"].([]any)
		require.Len(t, all, 2)
		require.Equal(t, second, all[1].(map[string]any)["deliveryId"])
		require.NotContains(t, all[1], "endedAt")
	})
}

func TestListDeliveries(t *testing.T) {
	t.Parallel()
	s := newService(t)
	s.promise(t)
	list := func(t *testing.T, query string) (ids []string, next string) {
		t.Helper()
		a := s.post(t, "list-deliveries", "", query, "")
		require.Equal(t, 200, a.StatusCode, a.Body)
		require.NotContains(t, a.Body, "SECRET")
		var page struct {
			Deliveries []struct{ DeliveryID, PromiseID string }
			NextCursor string
		}
		require.NoError(t, json.Unmarshal([]byte(a.Body), &page))
		require.NotNil(t, page.Deliveries, "an empty list is an array")
		for _, d := range page.Deliveries {
			require.Equal(t, promiseID, d.PromiseID)
			ids = append(ids, d.DeliveryID)
		}
		return ids, page.NextCursor
	}
	t.Run("none", func(t *testing.T) {
		ids, next := list(t, "")
		require.Empty(t, ids)
		require.Empty(t, next)
	})
	dead, gone := deliveryID, uuid.NewString()
	s.delivery(t, dead, promise.DeliveryDead)
	s.delivery(t, gone, promise.DeliveryGone)
	for query, want := range map[string][]string{
		"state=dead": {dead}, "destination=orders&state=gone": {gone}, "state=due": nil, "destination=unknown": nil,
		"destination=stepFunctions": nil, "promiseId=" + promiseID + "&state=dead": {dead}, "promiseId=" + workflowID: nil,
	} {
		t.Run(query, func(t *testing.T) {
			ids, next := list(t, query)
			require.Equal(t, want, ids)
			require.Empty(t, next)
		})
	}
	t.Run("pages", func(t *testing.T) {
		first, next := list(t, "limit=1")
		require.Len(t, first, 1)
		second, end := list(t, "limit=1&cursor="+next)
		require.ElementsMatch(t, []string{dead, gone}, append(first, second...))
		require.Empty(t, end)
	})
	t.Run("another tenant has none of them", func(t *testing.T) {
		s.db.Tenant(t, "other")
		require.Empty(t, s.answer(t, "list-deliveries", `{"tenant":"other"}`)["deliveries"])
	})
}

func TestRetryDeliveries(t *testing.T) {
	t.Parallel()
	s := newService(t)
	s.promise(t)
	s.delivery(t, deliveryID, promise.DeliveryDead)
	state := func(t *testing.T) string {
		t.Helper()
		return s.answer(t, "get-promise", payloadByID+"}")["deliveries"].([]any)[0].(map[string]any)["state"].(string)
	}
	again := func(t *testing.T, to promise.DeliveryState) {
		t.Helper()
		s.db.Exec(t, "UPDATE delivery SET state = $1::VARCHAR, due_at = NULL, attempts = 11", string(to))
	}
	t.Run("one", func(t *testing.T) {
		a := s.post(t, "retry-deliveries", deliveryID, "", "")
		require.Equal(t, 202, a.StatusCode, a.Body)
		var d map[string]any
		require.NoError(t, json.Unmarshal([]byte(a.Body), &d))
		require.Equal(t, "due", d["state"])
		require.Equal(t, 0.0, d["attempts"])
		require.Equal(t, promiseID, d["promiseId"])
		require.NotEmpty(t, d["dueAt"])
		require.NotContains(t, d, "endedAt")
		require.Equal(t, "due", state(t))
	})
	t.Run("one, again and directly", func(t *testing.T) {
		require.Equal(t, "due", s.answer(t, "retry-deliveries", `{"tenant":"demo","deliveryId":"`+deliveryID+`"}`)["state"])
	})
	t.Run("dead ones of a destination", func(t *testing.T) {
		again(t, promise.DeliveryDead)
		a := s.post(t, "retry-deliveries", "", "", `{"destination":"orders","state":"dead"}`)
		require.Equal(t, 202, a.StatusCode, a.Body)
		require.JSONEq(t, `{"retried":1,"more":false}`, a.Body)
		require.Equal(t, "due", state(t))
		require.JSONEq(t, `{"retried":0,"more":false}`, mustDirect(t, s, "retry-deliveries", `{"tenant":"demo","destination":"orders","state":"dead"}`))
	})
	t.Run("a conflict", func(t *testing.T) {
		for _, to := range []promise.DeliveryState{promise.DeliveryWaiting, promise.DeliveryGone} {
			again(t, to)
			p := requireProblem(t, 409, "conflict", s.post(t, "retry-deliveries", deliveryID, "", ""))
			require.NotContains(t, p, "outcome", "no settlement is meant")
			require.Equal(t, string(to), state(t))
		}
	})
	again(t, promise.DeliveryDead)
	before := s.snapshot(t)
	for _, c := range []struct {
		id, body, code string
		status         int
		field          any
	}{
		{"", "", "missing_field", 400, "destination"},
		{"", `{"destination":"orders"}`, "missing_field", 400, "state"},
		{"", `{"state":"dead"}`, "missing_field", 400, "destination"},
		{"", `{"destination":"orders","state":"gone"}`, "out_of_range", 400, "state"},
		{"", `{"destination":"orders","state":null}`, "wrong_type", 400, "state"},
		{"", `{"destination":"Orders","state":"dead"}`, "invalid_name", 400, "destination"},
		{"", `{"destination":"nowhere","state":"dead"}`, "unknown_destination", 422, "destination"},
		{"", `{"destination":"orders","state":"dead","limit":1}`, "unknown_field", 400, "limit"},
		{"", `{"deliveryId":"` + deliveryID + `"}`, "unknown_field", 400, "deliveryId"},
		{deliveryID, `{"destination":"orders","state":"dead"}`, "duplicate_field", 400, "deliveryId"},
		{deliveryID, `{"state":"dead"}`, "duplicate_field", 400, "deliveryId"},
		{deliveryID, `[`, "malformed_json", 400, nil},
		{"id:" + deliveryID, "", "invalid_uuid", 400, "deliveryId"},
		{"x", "", "invalid_uuid", 400, "deliveryId"},
		{workflowID, "", "not_found", 404, nil},
	} {
		t.Run(caseName(c.id, c.body, c.code), func(t *testing.T) {
			require.Equal(t, c.field, requireProblem(t, c.status, c.code, s.post(t, "retry-deliveries", c.id, "", c.body))["field"])
		})
	}
	for payload, code := range map[string]string{
		`{"tenant":"demo"}`: "missing_field", `{"tenant":"demo","deliveryId":"` + deliveryID + `","state":"dead"}`: "duplicate_field",
		`{"tenant":"demo","deliveryId":null}`: "wrong_type", `{"tenant":"demo","deliveryId":""}`: "invalid_uuid",
		`{"tenant":"demo","deliveryId":"` + deliveryID + `","key":"k"}`: "unknown_field", `{"deliveryId":"` + deliveryID + `"}`: "missing_field",
		`{"tenant":"other","deliveryId":"` + deliveryID + `"}`: "not_found",
	} {
		t.Run(caseName("direct", payload, code), func(t *testing.T) {
			_, err := s.direct(t, "retry-deliveries", payload)
			requireFunctionError(t, code, err)
		})
	}
	require.Equal(t, before, s.snapshot(t), "refused calls write nothing")
}

// list-deliveries needs the scope read, and retry-deliveries the scope deliver. A key without read does not see the last error, which may quote
// the receiver.
func TestScopesOfDeliveries(t *testing.T) {
	t.Parallel()
	s := newService(t)
	s.promise(t)
	s.delivery(t, deliveryID, promise.DeliveryDead)
	call := func(t *testing.T, function, identifier string, scopes ...promise.Scope) response {
		t.Helper()
		event := httpEvent(t, "POST", tenant, identifier, "", "")
		return respond(t, s.handler(t, function), withAuthorizer(t, event, keyHolder(tenant, scopes...).Texts()))
	}
	for function, needed := range map[string]promise.Scope{"list-deliveries": promise.ScopeRead, "retry-deliveries": promise.ScopeDeliver} {
		for _, scope := range promise.Scopes {
			if scope != needed {
				t.Run(function+" with "+string(scope), func(t *testing.T) {
					requireProblem(t, 403, "forbidden", call(t, function, deliveryID, scope))
				})
			}
		}
	}
	t.Run("a list quotes the last error", func(t *testing.T) {
		require.Contains(t, call(t, "list-deliveries", "", promise.ScopeRead).Body, "CONTENTS")
	})
	t.Run("a retry without read does not", func(t *testing.T) {
		a := call(t, "retry-deliveries", deliveryID, promise.ScopeDeliver)
		require.Equal(t, 202, a.StatusCode)
		require.NotContains(t, a.Body, "CONTENTS")
	})
	t.Run("a retry with read does", func(t *testing.T) {
		require.Contains(t, call(t, "retry-deliveries", deliveryID, promise.ScopeDeliver, promise.ScopeRead).Body, "CONTENTS")
	})
}
