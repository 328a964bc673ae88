package gateway_test

import (
	"encoding/base64"
	"encoding/json"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// An engine whose ids are no UUIDs names its workflow execution by its own id, in every call that names one and in both forms.
func TestWorkflowID(t *testing.T) {
	t.Parallel()
	s := newService(t)
	const workflow = "arn:aws:states:eu-west-1:123456789012:execution:payments:order/4711?ä"
	fields := func(t *testing.T, a response) map[string]any {
		t.Helper()
		var all map[string]any
		require.NoError(t, json.Unmarshal([]byte(a.Body), &all), a.Body)
		return all
	}
	a := s.post(t, "create-promise", "", "", `{"workflowId":"`+workflow+`","name":"payment"}`)
	require.Equal(t, 201, a.StatusCode, a.Body)
	p := fields(t, a)
	id := p["workflowExecutionId"].(string)
	t.Run("create-promise returns it", func(t *testing.T) {
		require.Equal(t, workflow, p["workflowId"])
	})
	t.Run("a repeated create finds the same promise by it", func(t *testing.T) {
		again := s.answer(t, "create-promise", `{"tenant":"demo","workflowId":"`+workflow+`","name":"payment"}`)
		require.Equal(t, false, again["created"])
		require.Equal(t, p["promiseId"], again["promiseId"])
	})
	byID := s.answer(t, "create-promise", `{"tenant":"demo","workflowExecutionId":"`+id+`","name":"second"}`)
	t.Run("create-promise with the derived UUID returns it", func(t *testing.T) {
		require.Equal(t, workflow, byID["workflowId"])
	})
	t.Run("get-promise returns it", func(t *testing.T) {
		require.Equal(t, workflow, s.answer(t, "get-promise", `{"tenant":"demo","promiseId":"`+p["promiseId"].(string)+`"}`)["workflowId"])
	})

	for field, value := range map[string]string{"workflowId": workflow, "workflowExecutionId": id} {
		payload := `{"tenant":"demo","` + field + `":"` + value + `"}`
		t.Run("list-promises finds its promises by "+field, func(t *testing.T) {
			require.Len(t, s.answer(t, "list-promises", payload)["promises"], 2)
		})
		t.Run("list-events finds its events by "+field, func(t *testing.T) {
			require.Len(t, s.answer(t, "list-events", payload)["events"], 2)
		})
	}
	t.Run("list-promises of an unknown workflowId is empty", func(t *testing.T) {
		require.Empty(t, s.answer(t, "list-promises", `{"tenant":"demo","workflowId":"another"}`)["promises"])
	})
	t.Run("list-promises takes it as a query parameter", func(t *testing.T) {
		a := s.post(t, "list-promises", "", "workflowId="+url.QueryEscape(workflow), "")
		require.Equal(t, 200, a.StatusCode, a.Body)
		require.Len(t, fields(t, a)["promises"], 2)
	})
	for form, segment := range map[string]string{
		"the UUID": id, "workflowId:": "workflowId:" + workflow, "workflowId64:": "workflowId64:" + base64.RawURLEncoding.EncodeToString([]byte(workflow)),
	} {
		t.Run("list-events takes "+form+" in the path", func(t *testing.T) {
			a := s.post(t, "list-events", segment, "", "")
			require.Equal(t, 200, a.StatusCode, a.Body)
			require.Len(t, fields(t, a)["events"], 2)
		})
	}
	t.Run("list-events does not find an unknown workflowId", func(t *testing.T) {
		requireProblem(t, 404, "not_found", s.post(t, "list-events", "workflowId:another", "", ""))
	})
}

func TestBadWorkflowIDs(t *testing.T) {
	t.Parallel()
	s := newService(t)
	before := s.snapshot(t)
	long, both := strings.Repeat("x", 256), `"workflowId":"a","workflowExecutionId":"`+workflowID+`"`
	for name, c := range map[string]struct{ body, code string }{
		"no workflow execution":          {`{"name":"n"}`, "missing_field"},
		"workflowId beside the UUID":     {`{` + both + `,"name":"n"}`, "duplicate_field"},
		"an empty workflowId":            {`{"workflowId":"","name":"n"}`, "out_of_range"},
		"a workflowId with NUL":          {`{"workflowId":"a\u0000","name":""}`, "nul_character"},
		"a replacement character":        {`{"workflowId":"\ufffd","name":"n"}`, "invalid_utf8"},
		"workflowId null":                {`{"workflowId":null,"name":"n"}`, "wrong_type"},
		"a number as workflowId":         {`{"workflowId":7,"name":"n"}`, "wrong_type"},
		"a workflowId of 256 characters": {`{"workflowId":"` + long + `","name":"n"}`, "out_of_range"},
	} {
		t.Run("create-promise refuses "+name, func(t *testing.T) {
			requireProblem(t, 400, c.code, s.post(t, "create-promise", "", "", c.body))
		})
	}
	for name, c := range map[string]struct{ segment, code string }{
		"an empty workflowId":            {"workflowId:", "out_of_range"},
		"a workflowId of 256 characters": {"workflowId:" + long, "out_of_range"},
		"base64 with padding":            {"workflowId64:YS9i=", "invalid_identifier"},
		"base64 of bytes outside UTF-8":  {"workflowId64:_w", "invalid_utf8"},
		"an id without a prefix":         {"order-1", "invalid_uuid"},
		"a prefix in another case":       {"WorkflowId:a", "invalid_uuid"},
	} {
		t.Run("list-events refuses "+name, func(t *testing.T) {
			requireProblem(t, 400, c.code, s.post(t, "list-events", c.segment, "", ""))
		})
	}
	t.Run("list-promises refuses workflowId beside the UUID", func(t *testing.T) {
		requireProblem(t, 400, "duplicate_field", s.post(t, "list-promises", "", "workflowId=a&workflowExecutionId="+workflowID, ""))
	})
	for name, c := range map[string]struct{ function, payload, code string }{
		"list-events without a workflow execution":    {"list-events", `{"tenant":"demo"}`, "missing_field"},
		"list-events with workflowId beside the UUID": {"list-events", `{"tenant":"demo",` + both + `}`, "duplicate_field"},
		"create-promise for an unknown tenant":        {"create-promise", `{"tenant":"nobody","workflowId":"a","name":"n"}`, "not_found"},
	} {
		t.Run("a direct invoke fails: "+name, func(t *testing.T) {
			_, err := s.direct(t, c.function, c.payload)
			requireFunctionError(t, c.code, err)
		})
	}
	t.Run("a refused call changes nothing", func(t *testing.T) {
		require.Equal(t, before, s.snapshot(t))
	})
}
