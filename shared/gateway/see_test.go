package gateway_test

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/promise"
)

// An API key without the scope read gets no contents of a promise from any operation: not from a create, not from a create that
// an early settlement settled, not from an extension.
func TestContentsNeedTheScopeRead(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, function, identifier, body string
		before                           string // payload of a resolve-by-key call made first; empty: no such call
	}{
		{"create", "create-promise", "", `{"workflowExecutionId":"` + workflowID + `","name":"new","metadata":{"a":"SECRET"},"onTimeout":{"resolve":"SECRET"}}`, ""},
		{"create with an early settlement", "create-promise", "", `{"workflowExecutionId":"` + workflowID + `","name":"new","idempotencyKey":"early"}`,
			`{"tenant":"` + tenant + `","key":"early","value":"SECRET","comment":"SECRET","holdSeconds":60}`},
		{"create repeated after the settlement", "create-promise", "", `{"workflowExecutionId":"` + workflowID + `","name":"second","idempotencyKey":"k2"}`,
			`{"tenant":"` + tenant + `","key":"k2","value":"SECRET","comment":"SECRET"}`},
		{"extend", "extend-promise", "key:k3", `{"timeoutMs":60000}`, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := newService(t)
			s.answer(t, "create-promise", `{"tenant":"`+tenant+`","workflowExecutionId":"`+workflowID+`","name":"second","idempotencyKey":"k2"}`)
			s.answer(t, "create-promise", `{"tenant":"`+tenant+`","workflowExecutionId":"`+workflowID+`","name":"third","idempotencyKey":"k3",
				"metadata":{"a":"SECRET"},"onTimeout":{"reject":"SECRET"}}`)
			if c.before != "" {
				s.answer(t, "resolve-by-key", c.before)
			}
			call := func(t *testing.T, scopes ...promise.Scope) string {
				t.Helper()
				event := withAuthorizer(t, httpEvent(t, "POST", tenant, c.identifier, "", c.body), keyHolder(tenant, scopes...).Texts())
				got, err := s.handler(t, c.function).Invoke(t.Context(), event)
				require.NoError(t, err)
				require.True(t, bytes.Contains(got, []byte(`"statusCode":20`)), "%s", got)
				return string(got)
			}
			t.Run("without read: no contents", func(t *testing.T) {
				require.NotContains(t, call(t, promise.ScopeCreate, promise.ScopeSettle), "SECRET")
			})
			t.Run("with read: the contents", func(t *testing.T) {
				require.Contains(t, call(t, promise.ScopeCreate, promise.ScopeRead), "SECRET")
			})
		})
	}
}
