package gateway_test

import (
	"encoding/base64"
	"encoding/json"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// An engine whose ids are not UUIDs may name a workflow execution by its own id, in every call and in both forms.
func TestWorkflowID(t *testing.T) {
	t.Parallel()
	s := newService(t)
	const workflow = "arn:aws:states:eu-west-1:123456789012:execution:payments:order/4711?ä"
	fields := func(body string) map[string]any {
		var all map[string]any
		require.NoError(t, json.Unmarshal([]byte(body), &all), body)
		return all
	}
	a := s.post(t, "create-promise", "", "", `{"workflowId":"`+workflow+`","name":"payment"}`)
	require.Equal(t, 201, a.StatusCode, a.Body)
	p := fields(a.Body)
	require.Equal(t, workflow, p["workflowId"])
	again := s.answer(t, "create-promise", `{"tenant":"demo","workflowId":"`+workflow+`","name":"payment"}`)
	require.Equal(t, false, again["created"])
	require.Equal(t, p["promiseId"], again["promiseId"])
	id := p["workflowExecutionId"].(string)
	byID := s.answer(t, "create-promise", `{"tenant":"demo","workflowExecutionId":"`+id+`","name":"second"}`)
	require.Equal(t, workflow, byID["workflowId"])
	require.Equal(t, workflow, s.answer(t, "get-promise", `{"tenant":"demo","promiseId":"`+p["promiseId"].(string)+`"}`)["workflowId"])

	for _, payload := range []string{`"workflowId":"` + workflow + `"`, `"workflowExecutionId":"` + id + `"`} {
		t.Run(caseName("lists, direct", payload), func(t *testing.T) {
			require.Len(t, s.answer(t, "list-promises", `{"tenant":"demo",`+payload+`}`)["promises"], 2)
			require.Len(t, s.answer(t, "list-events", `{"tenant":"demo",`+payload+`}`)["events"], 2)
		})
	}
	t.Run("list-promises of an unknown workflow is empty", func(t *testing.T) {
		require.Empty(t, s.answer(t, "list-promises", `{"tenant":"demo","workflowId":"another"}`)["promises"])
	})
	t.Run("list-promises, in the query", func(t *testing.T) {
		a := s.post(t, "list-promises", "", "workflowId="+url.QueryEscape(workflow), "")
		require.Equal(t, 200, a.StatusCode, a.Body)
		require.Len(t, fields(a.Body)["promises"], 2)
	})
	for _, segment := range []string{id, "workflowId:" + workflow, "workflowId64:" + base64.RawURLEncoding.EncodeToString([]byte(workflow))} {
		t.Run(caseName("list-events, in the path", segment), func(t *testing.T) {
			a := s.post(t, "list-events", segment, "", "")
			require.Equal(t, 200, a.StatusCode, a.Body)
			require.Len(t, fields(a.Body)["events"], 2)
		})
	}
	t.Run("list-events of an unknown workflow is not_found", func(t *testing.T) {
		requireProblem(t, 404, "not_found", s.post(t, "list-events", "workflowId:another", "", ""))
	})
}

func TestBadWorkflowIDs(t *testing.T) {
	t.Parallel()
	s := newService(t)
	before := s.snapshot(t)
	long, both := strings.Repeat("x", 256), `"workflowId":"a","workflowExecutionId":"`+workflowID+`"`
	for body, code := range map[string]string{
		`{"name":"n"}`:                             "missing_field",
		`{` + both + `,"name":"n"}`:                "duplicate_field",
		`{"workflowId":"","name":"n"}`:             "out_of_range",
		`{"workflowId":"a\u0000","name":""}`:       "nul_character",
		`{"workflowId":"\ufffd","name":"n"}`:       "invalid_utf8",
		`{"workflowId":null,"name":"n"}`:           "wrong_type",
		`{"workflowId":7,"name":"n"}`:              "wrong_type",
		`{"workflowId":"` + long + `","name":"n"}`: "out_of_range",
	} {
		t.Run(caseName("create-promise", body, code), func(t *testing.T) {
			requireProblem(t, 400, code, s.post(t, "create-promise", "", "", body))
		})
	}
	for segment, code := range map[string]string{
		"workflowId:": "out_of_range", "workflowId:" + long: "out_of_range", "workflowId64:YS9i=": "invalid_identifier",
		"workflowId64:_w": "invalid_utf8", "order-1": "invalid_uuid", "WorkflowId:a": "invalid_uuid",
	} {
		t.Run(caseName("list-events", segment, code), func(t *testing.T) {
			requireProblem(t, 400, code, s.post(t, "list-events", segment, "", ""))
		})
	}
	t.Run("list-promises: both in the query", func(t *testing.T) {
		requireProblem(t, 400, "duplicate_field", s.post(t, "list-promises", "", "workflowId=a&workflowExecutionId="+workflowID, ""))
	})
	for _, c := range []struct{ function, payload, code string }{
		{"list-events", `{"tenant":"demo"}`, "missing_field"},
		{"list-events", `{"tenant":"demo",` + both + `}`, "duplicate_field"},
		{"create-promise", `{"tenant":"nobody","workflowId":"a","name":"n"}`, "not_found"},
	} {
		t.Run(caseName("direct", c.function, c.payload, c.code), func(t *testing.T) {
			_, err := s.direct(t, c.function, c.payload)
			requireFunctionError(t, c.code, err)
		})
	}
	require.Equal(t, before, s.snapshot(t), "refused calls write nothing")
}
