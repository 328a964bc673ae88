package gateway_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestBothFormsAnswerTheSame(t *testing.T) {
	t.Parallel()
	s := newService(t)
	create := `"workflowExecutionId":"` + workflowID + `","name":"payment","idempotencyKey":"k:1/2 ä%","metadata":{"a":"<b>"}`
	a := s.post(t, "create-promise", "", "", "{"+create+"}")
	require.Equal(t, 201, a.StatusCode)
	require.Equal(t, "application/json", a.Headers["content-type"])
	var made struct {
		Created   bool
		PromiseID string
		State     string
	}
	require.NoError(t, json.Unmarshal([]byte(a.Body), &made))
	require.True(t, made.Created)
	require.Equal(t, "pending", made.State)

	again, err := s.direct(t, "create-promise", `{"tenant":"demo",`+create+`}`)
	require.NoError(t, err)
	require.Equal(t, strings.Replace(a.Body, `"created":true`, `"created":false`, 1), again)

	value := `{"b" :  1.0, "a":"<\u00e4>","a":  null}`
	a = s.post(t, "resolve", "key:k:1/2 ä%", "", `{"value": `+value+"\n}")
	require.Equal(t, 200, a.StatusCode)
	require.Equal(t,
		`{"outcome":"settled","state":"resolved","promiseId":"`+made.PromiseID+`","resolved":true,"alreadyResolved":false}`, a.Body)
	twice, err := s.direct(t, "resolve-by-id", `{"tenant":"demo","promiseId":"`+made.PromiseID+`","value":`+value+`}`)
	require.NoError(t, err)
	require.Equal(t,
		`{"outcome":"duplicate","state":"resolved","promiseId":"`+made.PromiseID+`","resolved":false,"alreadyResolved":true}`, twice)

	got, err := s.handler(t, "get-promise").Invoke(t.Context(), httpEvent(t, "GET", tenant, "id:"+made.PromiseID, "", ""))
	require.NoError(t, err)
	body := decodeResponse(t, got).Body
	require.Contains(t, body, `,"value":`+value+`}`, "byte for byte")
	sameBody, err := s.direct(t, "get-promise", `{"tenant":"demo","key":"k:1/2 ä%"}`)
	require.NoError(t, err)
	require.Equal(t, body, sameBody)
	require.True(t, json.Valid([]byte(body)))
}

// A legacy value may not be JSON.
func TestAValueThatIsNoJSON(t *testing.T) {
	t.Parallel()
	s := newService(t)
	s.promise(t)
	s.db.Exec(t, `UPDATE promise SET resolved = TRUE, outcome = 'resolved', value = '\x00ff22'`)
	got, err := s.direct(t, "get-promise", `{"tenant":"demo","key":"`+idempotencyKey+`"}`)
	require.NoError(t, err)
	require.True(t, json.Valid([]byte(got)), got)
	require.Contains(t, got, `"valueBase64":"AP8i"`)
}

func TestStrict(t *testing.T) {
	t.Parallel()
	s := newService(t)
	s.promise(t)
	t.Run("settled: 200", func(t *testing.T) {
		require.Equal(t, 200, s.post(t, "resolve", "id:"+promiseID, "strict=true", `{"value":1}`).StatusCode)
	})
	t.Run("duplicate: 200", func(t *testing.T) {
		require.Equal(t, 200, s.post(t, "resolve", "id:"+promiseID, "strict=true", `{"value":1}`).StatusCode)
	})
	t.Run("conflict: 409 with the outcome", func(t *testing.T) {
		p := requireProblem(t, 409, "conflict", s.post(t, "reject", "id:"+promiseID, "strict=true", `{"error":"x"}`))
		for name, want := range map[string]any{
			"promiseId": promiseID, "resolved": false, "alreadyResolved": true, "state": "resolved", "outcome": "conflict",
		} {
			require.Equal(t, want, p[name], name)
		}
	})
	t.Run("conflict, direct: a function error", func(t *testing.T) {
		_, err := s.direct(t, "reject", `{"tenant":"demo","promiseId":"`+promiseID+`","error":"x","strict":true}`)
		requireFunctionError(t, "conflict", err)
	})
	t.Run("conflict, not strict: 200", func(t *testing.T) {
		require.Equal(t, 200, s.post(t, "reject", "id:"+promiseID, "strict=false", `{"error":"x"}`).StatusCode)
	})
	t.Run("conflict, not strict, direct: the outcome", func(t *testing.T) {
		lax, err := s.direct(t, "reject", `{"tenant":"demo","promiseId":"`+promiseID+`","error":"x"}`)
		require.NoError(t, err)
		require.Contains(t, lax, `"outcome":"conflict"`)
	})
	for state, code := range map[string]string{"timed_out": "timed_out", "cancelled": "cancelled"} {
		t.Run(state+": 409, or 200 if not strict", func(t *testing.T) {
			s.db.Rewrite(t, "UPDATE promise SET outcome = $1, value = NULL", state)
			requireProblem(t, 409, code, s.post(t, "resolve", "key:"+idempotencyKey, "strict=true", `{"value":1}`))
			a := s.post(t, "resolve", "key:"+idempotencyKey, "", `{"value":1}`)
			require.Equal(t, 200, a.StatusCode)
			require.Contains(t, a.Body, fmt.Sprintf(`"outcome":%q,"state":%q`, code, state))
		})
	}
}

func TestConflictsNameTheExistingPromise(t *testing.T) {
	t.Parallel()
	s := newService(t)
	s.promise(t)
	for code, fields := range map[string]string{
		"key_conflict":    `"name":"other","idempotencyKey":"` + idempotencyKey + `"`,
		"create_conflict": `"name":"payment"`,
	} {
		t.Run(code, func(t *testing.T) {
			p := requireProblem(t, 409, code, s.post(t, "create-promise", "", "", `{"workflowExecutionId":"`+workflowID+`",`+fields+`}`))
			require.Equal(t, promiseID, p["existingPromiseId"])
		})
	}
}

// The answer about an unknown promise is the same, byte for byte, as the answer about another tenant's.
func TestUnknownAndForeignLookTheSame(t *testing.T) {
	t.Parallel()
	s := newService(t)
	s.db.Tenant(t, "other")
	s.promise(t)
	bodies := map[string]string{
		"resolve": `{"value":1}`, "reject": `{"error":"x"}`, "get-promise": "",
		"create-promise": `{"workflowExecutionId":"` + workflowID + `","name":"payment","idempotencyKey":"` + idempotencyKey + `"}`,
	}
	seen := map[string]bool{}
	for function, body := range bodies {
		for slug, identifiers := range map[string][]string{
			"nobody": {"id:" + promiseID, "key:" + idempotencyKey}, "other": {"id:" + promiseID, "key:" + idempotencyKey}, "nul\x00": {"id:" + promiseID},
			tenant: {"id:" + workflowID, "key:nothing"},
		} {
			if function == "create-promise" && slug == tenant {
				continue
			}
			for _, identifier := range identifiers {
				t.Run(caseName(function, slug, identifier), func(t *testing.T) {
					got, err := s.handler(t, function).Invoke(t.Context(), httpEvent(t, "POST", slug, identifier, "", body))
					require.NoError(t, err)
					requireProblem(t, 404, "not_found", decodeResponse(t, got))
					seen[string(got)] = true
				})
			}
		}
	}
	require.Len(t, seen, 1)
}
