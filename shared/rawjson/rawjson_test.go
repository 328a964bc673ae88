package rawjson_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/rawjson"
)

// FuzzParse compares Parse and ParseAny with encoding/json. They accept the same
// texts, except for the rules that are stricter here, and return the same fields.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		`{}`, ` { } `, `{"a":1}`, `{"a":{"b":[1,"}"]},"c":"\"\\","d":null}`, `{"\u0061":1,"a":2}`, `{"a":1,"a":2}`, `[]`, `"x"`, `1`,
		`{"a":1} `, `{"a":1}{}`, `{"`, `{"a`, `{"a"`, `{"a":`, `{"a":1`, `{"a" 1}`, `{"a":"\ud800\udc00"}`, "{\"a\":\"\xff\"}",
		"{\n\t\"a\" :\r -1.5e3 , \"b\":[ [ ] , { } ] }", `{"":""}`, `nullx`, ``, ` `, `null`, `{"a":1,"A":2}`, "\ufeff{}",
		`{"a":01}`, `{"a":[1 , {"b":[]},"]", "\\" ]}`, `{"a":"\ud800","b":"\udc00\ud800"}`, `{"\ud800":1}`, `{"a":1}]`, `{"a":1} nul`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		for f := range rawjson.Fields(text) {
			rawjson.Unquote(f.Raw)
		}
		if bytes.ContainsRune(text, '\ufffd') || !bytes.Equal(bytes.ToValidUTF8(text, []byte("\ufffd")), text) {
			return // encoding/json would replace invalid bytes in names
		}
		var want map[string]json.RawMessage
		oracle := json.Unmarshal(text, &want)
		kind := expectedKind(text)
		all, err := rawjson.ParseAny(text)
		require.Equal(t, kind, kindOf(t, err), "%.1000q", text)
		names := slices.Collect(maps.Keys(want))
		fields, err := rawjson.Parse(text, names)
		require.Equal(t, kind, kindOf(t, err), "%.1000q", text)
		if kind != "" {
			require.Nil(t, all)
			require.Nil(t, fields)
			return
		}
		require.NoError(t, oracle)
		require.Equal(t, want, all)
		require.Len(t, fields, len(want))
		for _, f := range fields {
			require.Equal(t, string(want[string(f.Name)]), string(f.Raw))
			compareValue(t, f.Raw)
		}
		if len(names) > 0 {
			_, err := rawjson.Parse(text, names[1:])
			require.Equal(t, &rawjson.Error{Kind: rawjson.UnknownField, Field: names[0]}, err)
		}
	})
}

// compareValue compares Elements, Unquote and Depth with encoding/json's reading of one value.
func compareValue(t *testing.T, raw json.RawMessage) {
	switch raw[0] {
	case '[':
		var want, got []json.RawMessage
		require.NoError(t, json.Unmarshal(raw, &want))
		for item := range rawjson.Elements(raw) {
			got = append(got, item)
		}
		require.Len(t, got, len(want))
		for i := range want {
			require.Equal(t, string(want[i]), string(got[i]))
		}
	case '"':
		var want string
		require.NoError(t, json.Unmarshal(raw, &want))
		require.Equal(t, want, rawjson.Unquote(raw))
	default:
		require.Empty(t, rawjson.Unquote(raw))
	}
	now, most := 0, 0
	for d := json.NewDecoder(bytes.NewReader(raw)); ; {
		token, err := d.Token()
		if err != nil {
			break
		}
		switch token {
		case json.Delim('{'), json.Delim('['):
			now++
			most = max(most, now)
		case json.Delim('}'), json.Delim(']'):
			now--
		}
	}
	require.Equal(t, most, rawjson.Depth(raw))
}

// expectedKind returns the kind of error for a text, or "" for an object that is
// accepted. It reads the text with encoding/json.
func expectedKind(text []byte) rawjson.Kind {
	d := json.NewDecoder(bytes.NewReader(text))
	var first json.RawMessage
	if err := d.Decode(&first); err != nil {
		if strings.Contains(err.Error(), "max depth") {
			return rawjson.TooDeep
		}
		return rawjson.Malformed
	}
	if err := d.Decode(new(json.RawMessage)); !errors.Is(err, io.EOF) {
		return rawjson.TrailingData
	}
	if first[0] != '{' {
		return rawjson.NotObject
	}
	d = json.NewDecoder(bytes.NewReader(first))
	_, _ = d.Token()
	for seen := map[any]bool{}; d.More(); {
		name, _ := d.Token()
		if seen[name] {
			return rawjson.DuplicateField
		}
		seen[name] = true
		_ = d.Decode(new(json.RawMessage))
	}
	return ""
}

func kindOf(t *testing.T, err error) rawjson.Kind {
	if err == nil {
		return ""
	}
	var e *rawjson.Error
	require.True(t, errors.As(err, &e), "%v", err)
	return e.Kind
}

func TestErrors(t *testing.T) {
	t.Parallel()
	deep := strings.Repeat(`{"a":`, 10_001) + "1" + strings.Repeat("}", 10_001)
	for text, want := range map[string]rawjson.Error{
		"":                      {Kind: rawjson.Malformed},
		" \n":                   {Kind: rawjson.Malformed, At: 2},
		`{"a":1`:                {Kind: rawjson.Malformed, At: 6},
		`{"a":1,}`:              {Kind: rawjson.Malformed, At: 7},
		`{"a":x}`:               {Kind: rawjson.Malformed, At: 5},
		`{"a":1} {}`:            {Kind: rawjson.TrailingData, At: 8},
		deep:                    {Kind: rawjson.TooDeep, Field: "a"},
		`null`:                  {Kind: rawjson.NotObject},
		`[{"a":1}]`:             {Kind: rawjson.NotObject},
		`{"a":1,"A":2}`:         {Kind: rawjson.UnknownField, Field: "A"},
		`{"b":1,"a":1,"a":2}`:   {Kind: rawjson.UnknownField, Field: "b"},
		`{"a":1,"a":2,"b":3}`:   {Kind: rawjson.DuplicateField, Field: "a"},
		`{"a":1,"\u0061":null}`: {Kind: rawjson.DuplicateField, Field: "a"},
	} {
		t.Run(fmt.Sprintf("%.30q", text), func(t *testing.T) {
			fields, err := rawjson.Parse([]byte(text), []string{"a"})
			require.Equal(t, &want, err)
			require.Equal(t, string(want.Kind), err.Error())
			require.Nil(t, fields)
		})
	}
	t.Run("ParseAny refuses a second field of one name", func(t *testing.T) {
		_, err := rawjson.ParseAny([]byte(`{"x":1,"y":{"x":1},"x":1}`))
		require.Equal(t, &rawjson.Error{Kind: rawjson.DuplicateField, Field: "x"}, err)
	})
	t.Run("10000 levels are accepted", func(t *testing.T) {
		fields, err := rawjson.Parse([]byte(deep[len(`{"a":`):len(deep)-1]), []string{"a"})
		require.NoError(t, err)
		require.Equal(t, 9_999, rawjson.Depth(fields[0].Raw))
	})
}
