package gateway_test

import (
	"encoding/json"
	"regexp"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/stretchr/testify/require"
)

// The description has the fields that the service lists for an unknown one within a field.
func TestDescribedNestedFields(t *testing.T) {
	t.Parallel()
	s := newService(t)
	s.source(t, "")
	d, err := description()
	require.NoError(t, err)
	const source = `"action":"put-source","name":"n","rules":[],`
	for schema, c := range map[string]struct{ function, fields string }{
		"Tokens":           {"create-promise", `"workflowId":"w","name":"n","tokens":{"x":1}`},
		"OnTimeout":        {"create-promise", `"workflowId":"w","name":"n","onTimeout":{"x":1}`},
		"Target":           {"create-promise", `"workflowId":"w","name":"n","notify":[{"x":1}]`},
		"BatchItem":        {"batch-resolve", `"items":[{"x":1}]`},
		"Verifier":         {"manage-integrations", source + `"verifier":{"x":1}`},
		"HMACVerifier":     {"manage-integrations", source + `"verifier":{"hmac":{"x":1}}`},
		"BasicVerifier":    {"manage-integrations", source + `"verifier":{"basic":{"x":1}}`},
		"Rule":             {"manage-integrations", `"action":"put-source","name":"n","verifier":{"preset":"stripe"},"rules":[{"x":1}]`},
		"SourceDefinition": {"manage-integrations", `"action":"test-source","name":"stripe","body":"","definition":{"x":1}`},
	} {
		t.Run(schema, func(t *testing.T) {
			answer, err := s.direct(t, c.function, `{"tenant":"demo",`+c.fields+`}`)
			if err == nil { // the item of a batch fails by itself
				var results struct{ Results []json.RawMessage }
				require.NoError(t, json.Unmarshal([]byte(answer), &results))
				answer = string(results.Results[0])
			} else {
				answer = err.Error()
			}
			found := regexp.MustCompile(`The fields are: ([\w, ]+)\.`).FindStringSubmatch(answer)
			require.NotEmpty(t, found, answer)
			require.ElementsMatch(t, strings.Split(found[1], ", "), fieldsOf(d.Components.Schemas[schema].Value))
		})
	}
}

// fieldsOf returns the names of the fields of a schema, or of all its forms.
func fieldsOf(s *openapi3.Schema) (names []string) {
	for name := range s.Properties {
		names = append(names, name)
	}
	for _, form := range s.OneOf {
		names = append(names, fieldsOf(form.Value)...)
	}
	return names
}
