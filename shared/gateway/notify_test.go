package gateway_test

import (
	"encoding/json"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/promise"
)

// withTargets returns the fields of a create with targets.
func withTargets(targets string) string {
	return `"workflowExecutionId":"` + workflowID + `","name":"n","notify":` + targets
}

// An invalid list of targets is refused with its code and its field, writes nothing, and is never quoted.
func TestInvalidNotify(t *testing.T) {
	t.Parallel()
	s := newService(t)
	before := s.snapshot(t)
	task := func(fields string) string { return `[{"stepFunctions":{` + fields + `}}]` }
	callback := func(id string) string { return `[{"durableExecution":{"callbackId":"` + id + `"}}]` }
	for _, c := range []struct{ targets, code, field string }{
		{`null`, "wrong_type", "notify"},
		{`{}`, "wrong_type", "notify"},
		{`"orders"`, "wrong_type", "notify"},
		{`["orders"]`, "wrong_type", "notify[0]"},
		{`[{"destination":"a"},null]`, "wrong_type", "notify[1]"},
		{`[{}]`, "missing_field", "notify[0]"},
		{`[{"sqs":{"url":"SECRET"}}]`, "unknown_field", "notify[0].sqs"},
		{`[{"stepfunctions":{"taskToken":"SECRET"}}]`, "unknown_field", "notify[0].stepfunctions"},
		{`[{"destination":"a","stepFunctions":{"taskToken":"SECRET"}}]`, "duplicate_field", "notify[0]"},
		{`[{"stepFunctions":{"taskToken":"SECRET"},"durableExecution":{"callbackId":"SECRET"}}]`, "duplicate_field", "notify[0]"},
		{`[{"destination":"a","destination":"b"}]`, "duplicate_field", "notify[0].destination"},
		{`[{"destination":"a"},{"destination":"b"},{"destination":"c"},{"destination":"d"},{"destination":"e"}]`, "invalid_notify", "notify"},
		{`[{"destination":7}]`, "wrong_type", "notify[0].destination"},
		{`[{"destination":""}]`, "invalid_name", "notify[0].destination"},
		{`[{"destination":"Orders"}]`, "invalid_name", "notify[0].destination"},
		{`[{"destination":"-orders"}]`, "invalid_name", "notify[0].destination"},
		{`[{"destination":"orders-"}]`, "invalid_name", "notify[0].destination"},
		{`[{"destination":"or_ders"}]`, "invalid_name", "notify[0].destination"},
		{`[{"destination":"orders\n"}]`, "invalid_name", "notify[0].destination"},
		{`[{"destination":"stepFunctions"}]`, "unknown_destination", "notify[0]"},    // a valid name, of no destination yet
		{`[{"destination":"durableExecution"}]`, "unknown_destination", "notify[0]"}, // a valid name, of no destination yet
		{`[{"destination":"` + strings.Repeat("a", 64) + `"}]`, "invalid_name", "notify[0].destination"},
		{`[{"destination":"\u0000"}]`, "nul_character", "notify[0].destination"},
		{`[{"destination":"a"},{"destination":"b"},{"destination":"a"}]`, "invalid_notify", "notify[2].destination"},
		{`[{"stepFunctions":"SECRET"}]`, "wrong_type", "notify[0].stepFunctions"},
		{task(``), "missing_field", "notify[0].stepFunctions.taskToken"},
		{task(`"taskToken":null`), "wrong_type", "notify[0].stepFunctions.taskToken"},
		{task(`"taskToken":["SECRET"]`), "wrong_type", "notify[0].stepFunctions.taskToken"},
		{task(`"taskToken":""`), "invalid_notify", "notify[0].stepFunctions.taskToken"},
		{task(`"taskToken":"SECRET\u0000"`), "nul_character", "notify[0].stepFunctions.taskToken"},
		{task(`"taskToken":"SECRET\ud800"`), "invalid_utf8", "notify[0].stepFunctions.taskToken"},
		{task(`"taskToken":"SECRET` + strings.Repeat("ä", 2043) + `"`), "invalid_notify", "notify[0].stepFunctions.taskToken"},
		{task(`"taskToken":"SECRET","taskToken":"SECRET"`), "duplicate_field", "notify[0].stepFunctions.taskToken"},
		{task(`"taskToken":"SECRET","callbackId":"SECRET"`), "unknown_field", "notify[0].stepFunctions.callbackId"},
		{task(`"taskToken":"SECRET","destination":"A"`), "invalid_name", "notify[0].stepFunctions.destination"},
		{task(`"taskToken":"SECRET","destination":null`), "wrong_type", "notify[0].stepFunctions.destination"},
		{callback(""), "invalid_notify", "notify[0].durableExecution.callbackId"},
		{callback("SECRET-"), "invalid_notify", "notify[0].durableExecution.callbackId"},
		{callback("SECRET==="), "invalid_notify", "notify[0].durableExecution.callbackId"},
		{callback("SEC=RET"), "invalid_notify", "notify[0].durableExecution.callbackId"},
		{callback("SECRET\\n"), "invalid_notify", "notify[0].durableExecution.callbackId"},
		{callback("SECRET" + strings.Repeat("A", 1019)), "invalid_notify", "notify[0].durableExecution.callbackId"},
		{`[{"durableExecution":{"taskToken":"SECRET"}}]`, "unknown_field", "notify[0].durableExecution.taskToken"},
		{`[{"stepFunctions":{"taskToken":"SECRET"}},{"stepFunctions":{"taskToken":"SECRET","destination":"a"}}]`, "invalid_notify", "notify[1].stepFunctions.taskToken"},
		{`[{"stepFunctions":{"taskToken":"SECRET"}},{"destination":"a"},{"durableExecution":{"callbackId":"SECRET"}}]`, "invalid_notify", "notify[2].durableExecution.callbackId"},
		{`[{"destination":"nowhere"}]`, "unknown_destination", "notify[0]"},
		{`[{"stepFunctions":{"taskToken":"SECRET","destination":"nowhere"}}]`, "unknown_destination", "notify[0]"},
	} {
		t.Run(caseName(c.targets, c.code), func(t *testing.T) {
			status := 400
			if c.code == "invalid_notify" || c.code == "unknown_destination" {
				status = 422
			}
			a := s.post(t, "create-promise", "", "", "{"+withTargets(c.targets)+"}")
			require.Equal(t, c.field, requireProblem(t, status, c.code, a)["field"])
			_, err := s.direct(t, "create-promise", `{"tenant":"demo",`+withTargets(c.targets)+"}")
			require.Equal(t, c.field, requireFunctionError(t, c.code, err)["field"])
			require.NotContains(t, a.Body+err.Error(), "SECRET")
		})
	}
	require.Equal(t, before, s.snapshot(t), "refused calls write nothing")
	require.NotContains(t, s.log.String(), "SECRET")
}

// A valid list reaches the store with its order, and the largest lengths of tokens and names are valid.
func TestNotify(t *testing.T) {
	t.Parallel()
	longName, longTask, longCallback := strings.Repeat("a", 63), strings.Repeat("ä", 2048), strings.Repeat("A", 1022)+"=="
	for name, c := range map[string]struct {
		fields string
		want   []promise.Target
	}{
		"absent":  {`"workflowExecutionId":"` + workflowID + `","name":"n"`, nil},
		"empty":   {withTargets(`[]`), []promise.Target{}},
		"a space": {withTargets(` [ ] `), []promise.Target{}},
		"each kind, in order": {
			withTargets(`[{"destination":"b"},{"stepFunctions":{"taskToken":"t"}},{"durableExecution":{"callbackId":"Q","destination":"b"}},{"destination":"a"}]`),
			[]promise.Target{
				{Destination: "b"}, {Kind: promise.DestinationStepFunctions, Token: "t"},
				{Kind: promise.DestinationDurableExecution, Token: "Q", Destination: "b"}, {Destination: "a"},
			},
		},
		"the largest lengths": {
			withTargets(`[{"destination":"` + longName + `"},{"stepFunctions":{"taskToken":"` + longTask + `"}},{"durableExecution":{"callbackId":"` + longCallback + `"}}]`),
			[]promise.Target{
				{Destination: longName}, {Kind: promise.DestinationStepFunctions, Token: longTask},
				{Kind: promise.DestinationDurableExecution, Token: longCallback},
			},
		},
		"an escaped token": {withTargets(`[{"stepFunctions":{"taskToken":"\u0041\"\\"}}]`), []promise.Target{{Kind: promise.DestinationStepFunctions, Token: `A"\`}}},
	} {
		t.Run(name, func(t *testing.T) {
			store := &recorder{}
			s := withoutDatabase()
			s.store = store
			require.Equal(t, 201, s.post(t, "create-promise", "", "", "{"+c.fields+"}").StatusCode)
			_, err := s.direct(t, "create-promise", `{"tenant":"demo",`+c.fields+"}")
			require.NoError(t, err)
			require.Len(t, store.calls, 2)
			for _, call := range store.calls {
				require.Equal(t, c.want, call.args[0].(promise.Draft).Notify)
			}
		})
	}
}

// No answer of any operation shows a token, and neither does the log.
func TestTokensOfTargetsAreNeverShown(t *testing.T) {
	t.Parallel()
	s := newService(t)
	targets := `[{"stepFunctions":{"taskToken":"SECRET1"}},{"durableExecution":{"callbackId":"SECRET2"}}]`
	made := s.post(t, "create-promise", "", "", "{"+withTargets(targets)+"}")
	require.Equal(t, 201, made.StatusCode, made.Body)
	var p struct{ PromiseID string }
	require.NoError(t, json.Unmarshal([]byte(made.Body), &p))
	id := `"promiseId":"` + p.PromiseID + `"`
	all := made.Body
	for n, call := range []struct{ function, payload string }{
		{"create-promise", withTargets(strings.ReplaceAll(targets, "SECRET", "SECRET0"))},
		{"get-promise", id},
		{"wait-promise", id + `,"waitSeconds":0`},
		{"extend-promise", id + `,"timeoutMs":60000`},
		{"list-promises", `"state":"pending"`},
		{"list-events", `"workflowExecutionId":"` + workflowID + `"`},
		{"list-deliveries", id},
		{"resolve", id + `,"value":1`},
		{"get-promise", id},
		{"retry-deliveries", `"destination":"stepFunctions","state":"dead"`},
		{"delete-promise", id},
	} {
		t.Run(strconv.Itoa(n+1)+" "+call.function, func(t *testing.T) {
			got, err := s.direct(t, call.function, `{"tenant":"demo",`+call.payload+`}`)
			require.NoError(t, err)
			require.NotContains(t, got, "SECRET")
		})
	}
	require.NotContains(t, all+s.log.String(), "SECRET")
}
