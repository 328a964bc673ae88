package gateway

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/promise"
)

// FuzzParseObject compares parseObject with encoding/json. Both accept the same texts,
// except for the rules that are stricter in parseObject, and both return the same fields.
func FuzzParseObject(f *testing.F) {
	for _, seed := range []string{
		`{}`, ` { } `, `{"a":1}`, `{"a":{"b":[1,"}"]},"c":"\"\\","d":null}`, `{"\u0061":1,"a":2}`, `{"a":1,"a":2}`, `[]`, `"x"`, `1`,
		`{"a":1} `, `{"a":1}{}`, `{"`, `{"a`, `{"a"`, `{"a":`, `{"a":1`, `{"a" 1}`, `{"a":"\ud800\udc00"}`, "{\"a\":\"\xff\"}",
		"{\n\t\"a\" :\r -1.5e3 , \"b\":[ [ ] , { } ] }", `{"version":"2.0","requestContext":{}}`, `{"":""}`, `nullx`, ``, `null`,
		`{"a":1,"A":2}`, "\ufeff{}", "\ufeff\ufeff{}", "\ufeff", "\xff\xfe{\x00}\x00", "{\x00}\x00", "\x00{\x00}", "{\x00", `{"a":1}` + "\ufeff", `{"a":01}`, `{"a":[1 , {"b":[]},"]", "\\" ]}`, `{"a":"\ud800","b":"\udc00\ud800"}`,
		`{"a":"\u0000","b":"\\u0000"}`, `{"a":"\uFFFD","b":"` + "\ufffd" + `"}`, `{"\ud800":1}`, `{"a":1}]`, `{"a":1} nul`,
		`{"a":"\ud800\u0041","b":"\uD83D\uDE00","c":"\uDE00\uD83D","d":"\ud83d\\ude00"}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		if ev, is := readEvent(text); is {
			_, _ = decompress(ev.body, ev.contentEncoding)
		}
		var want map[string]json.RawMessage
		oracle := json.Unmarshal(bytes.TrimPrefix(text, []byte("\xef\xbb\xbf")), &want)
		names := slices.Collect(maps.Keys(want))
		o, err := parseObject(text, names)
		require.Equal(t, expectedCode(text), codeOf(err), "%.1000q", text)
		if err != nil {
			require.Nil(t, o)
			return
		}
		require.NoError(t, oracle)
		require.Len(t, o, len(want))
		for name, raw := range want {
			got, ok := o.get(name)
			require.True(t, ok)
			require.Equal(t, string(raw), string(got))
			compareText(t, raw)
		}
		if len(names) > 0 {
			_, err := parseObject(text, names[1:])
			require.Equal(t, promise.CodeUnknownField, codeOf(err), "the first field is not in the list of known fields")
		}
	})
}

func TestParseObjectDepth(t *testing.T) {
	t.Parallel()
	nested := func(depth int) []byte {
		return []byte(strings.Repeat(`{"a":`, depth) + "1" + strings.Repeat("}", depth))
	}
	t.Run("10000 levels are accepted", func(t *testing.T) {
		o, err := parseObject(nested(10_000), []string{"a"})
		require.NoError(t, err)
		require.Equal(t, string(nested(9_999)), string(o[0].Raw))
	})
	t.Run("10001 levels are too large, and the error names the field", func(t *testing.T) {
		_, err := parseObject(nested(10_001), []string{"a"})
		require.Equal(t, promise.CodeValueTooLarge, codeOf(err))
		require.Equal(t, "a", promise.AsError(err).Field)
	})
	t.Run("encoding/json has the same limit", func(t *testing.T) {
		require.Equal(t, promise.CodeValueTooLarge, expectedCode(nested(10_001)))
	})
	for name, text := range map[string]string{
		"a million brackets":                        strings.Repeat("[", 1_000_000),
		"10000 brackets in the second field":        `{"a":1,"b":` + strings.Repeat("[", 10_000),
		"10001 levels with brackets in the strings": `{"b" : "\"[[" , "a":[` + strings.Repeat(`{"]":[`, 5_000) + "}",
	} {
		t.Run(name+" are too large, although the text ends too early", func(t *testing.T) {
			_, err := parseObject([]byte(text), []string{"a"})
			require.Equal(t, promise.CodeValueTooLarge, codeOf(err))
		})
	}
	t.Run("10000 levels that end too early are malformed", func(t *testing.T) {
		_, err := parseObject([]byte(`{"a":`+strings.Repeat("[", 9_999)), []string{"a"})
		require.Equal(t, promise.CodeMalformedJSON, codeOf(err))
	})
}

// expectedCode returns the error code for a text that must be an object, or "" for a valid
// one. It reads the text with encoding/json and adds the stricter rules.
func expectedCode(text []byte) promise.Code {
	text = bytes.TrimPrefix(text, []byte("\xef\xbb\xbf"))
	if !utf8.Valid(text) || len(text) > 0 && text[0] == 0 || len(text) > 1 && text[1] == 0 {
		return promise.CodeInvalidUTF8
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	var first json.RawMessage
	if err := dec.Decode(&first); err != nil {
		if strings.Contains(err.Error(), "max depth") {
			return promise.CodeValueTooLarge
		}
		return promise.CodeMalformedJSON
	}
	if err := dec.Decode(new(json.RawMessage)); !errors.Is(err, io.EOF) {
		return promise.CodeTrailingData
	}
	if first[0] != '{' {
		return promise.CodeWrongType
	}
	dec = json.NewDecoder(bytes.NewReader(first))
	_, _ = dec.Token()
	for seen := map[any]bool{}; dec.More(); {
		name, _ := dec.Token()
		if seen[name] {
			return promise.CodeDuplicateField
		}
		seen[name] = true
		_ = dec.Decode(new(json.RawMessage))
	}
	return ""
}

// compareText compares text with encoding/json's reading of one value.
func compareText(t *testing.T, raw json.RawMessage) {
	if raw[0] != '"' {
		return
	}
	var want string
	require.NoError(t, json.Unmarshal(raw, &want))
	code := promise.Code("")
	for rest := []rune(string(raw)); len(rest) > 0 && code == ""; rest = rest[1:] {
		if rest[0] != '\\' {
			continue
		}
		var r string
		long := len(rest) > 12 && json.Unmarshal([]byte(`"`+string(rest[:12])+`"`), &r) == nil && utf8.RuneCountInString(r) == 1
		switch escape := strings.ToLower(string(rest[1:min(6, len(rest))])); {
		case long: // two escapes that encode one character
			rest = rest[11:]
		case escape == "u0000":
			code = promise.CodeNULCharacter
		case len(escape) == 5 && escape[:2] == "ud" && escape[2] >= '8':
			code = promise.CodeInvalidUTF8
		default:
			rest = rest[1:]
		}
	}
	s, err := text("a", raw)
	require.Equal(t, code, codeOf(err), "%q", raw)
	if err == nil {
		require.Equal(t, want, s)
	}
}

func codeOf(err error) promise.Code {
	if err == nil {
		return ""
	}
	return promise.AsError(err).Code
}
