package gateway

import (
	"encoding/json"
	"maps"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// FuzzParseObject checks the walk through a JSON text against encoding/json.
func FuzzParseObject(f *testing.F) {
	for _, seed := range []string{
		`{}`, ` { } `, `{"a":1}`, `{"a":{"b":[1,"}"]},"c":"\"\\","d":null}`, `{"\u0061":1,"a":2}`, `{"a":1,"a":2}`, `[]`, `"x"`, `1`,
		`{"a":1} `, `{"a":1}{}`, `{"`, `{"a`, `{"a"`, `{"a":`, `{"a":1`, `{"a" 1}`, `{"a":"\ud800\udc00"}`, "{\"a\":\"\xff\"}",
		"{\n\t\"a\" :\r -1.5e3 , \"b\":[ [ ] , { } ] }", `{"version":"2.0","requestContext":{}}`, `{"":""}`, `nullx`, ``,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		isEvent(text)
		_, _ = readEvent(text)
		var want map[string]json.RawMessage
		oracle := json.Unmarshal(text, &want)
		o, err := parseObject(text, slices.Collect(maps.Keys(want)))
		if err != nil {
			return
		}
		require.NoError(t, oracle, "%q", text)
		require.Len(t, o, len(want), "%q", text)
		for name, raw := range want {
			got, ok := o.get(name)
			require.True(t, ok, "%q", text)
			require.Equal(t, string(raw), string(got), "%q", text)
		}
	})
}
