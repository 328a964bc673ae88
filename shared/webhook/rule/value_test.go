package rule_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"math/big"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/flovyn/promises/shared/promise"
	"github.com/flovyn/promises/shared/webhook/rule"
)

func TestValues(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ body, value, want, reason string }{
		"the body's bytes":    {" {\"b\": 1,\n\"a\":1.0}\n", "", " {\"b\": 1,\n\"a\":1.0}\n", ""},
		"the body again":      {`{"b":1,"a":[1.5,"x",true,null,{}]}`, "body", `{"a":[1.5,"x",true,null,{}],"b":1}`, ""},
		"integers":            {`[9007199254740993,-9223372036854775808,18446744073709551615,-0]`, "body", `[9007199254740993,-9223372036854775808,18446744073709551615,0]`, ""},
		"a larger integer":    {`[18446744073709551616]`, "body", `["18446744073709551616"]`, ""},
		"doubles":             {`[0.1,1e21,1e-7,100.0,5e-324,1.7976931348623157e308]`, "body", `[0.1,1e+21,1e-7,100,5e-324,1.7976931348623157e+308]`, ""},
		"escapes":             {`["<&>\"\\\u0001\u2028é😀"]`, "body", `["<&>\"\\\u0001\u2028é😀"]`, ""},
		"a text":              {`{"a":"b"}`, "body.a", `"b"`, ""},
		"null":                {`{}`, "null", `null`, ""},
		"a bool":              {`{}`, "1 < 2", `true`, ""},
		"bytes":               {`{}`, `b'\xff\x00'`, `"/wA="`, ""},
		"a time":              {`{"a":"2026-01-02T03:04:05.6+02:00"}`, "timestamp(body.a)", `"2026-01-02T01:04:05.6Z"`, ""},
		"sorted names":        {`{"a":1}`, "{'b': body.a, 'a': {'d': 1, 'c': 2}}", `{"a":{"c":2,"d":1},"b":1}`, ""},
		"optional entries":    {`{"a":1}`, "{?'a': body.?a, ?'b': body.?b, 'c': [?body.?a, ?body.?b]}", `{"a":1,"c":[1]}`, ""},
		"a macro's list":      {`{"a":[1,2,3]}`, "body.a.filter(x, x > 1).map(x, {'n': x})", `[{"n":2},{"n":3}]`, ""},
		"a sum of lists":      {`{"a":[1]}`, "body.a + ['b']", `[1,"b"]`, ""},
		"headers":             {`{}`, "headers", `{"x-a":"1"}`, ""},
		"query":               {`{}`, "query", `{"q":"2"}`, ""},
		"infinite":            {`{"a":1e308}`, "body.a * 10.0", "", "rule 1, value: the result is a number that JSON does not have"},
		"not a number":        {`{"a":0.0}`, "[body.a / body.a]", "", "rule 1, value: the result is a number that JSON does not have"},
		"an int as a name":    {`{}`, "{1: 2}", "", "rule 1, value: the result is a map whose keys are not strings"},
		"a duration":          {`{}`, "[dyn(duration('1s'))]", "", "rule 1, value: the result has a type that JSON does not have"},
		"a type":              {`{}`, "[type(1)]", "", "rule 1, value: the result has a type that JSON does not have"},
		"an optional inside":  {`{}`, "[body.?a]", "", "rule 1, value: the result is an optional value: use orValue(...)"},
		"omit":                {`{"a":9007199254740993,"b":{"c":1,"d":[2.50]}}`, "body.omit('b.c')", `{"a":9007199254740993,"b":{"d":[2.5]}}`, ""},
		"omit a member":       {`{"a":1,"b":{"c":1}}`, "body.omit('b')", `{"a":1}`, ""},
		"omit two":            {`{"a":1,"b":{"c":1,"d":2}}`, "body.omit('a').omit('b.d')", `{"b":{"c":1}}`, ""},
		"omit a null":         {`{"a":null,"b":1}`, "body.omit('a')", `{"b":1}`, ""},
		"omit nothing":        {`{"a":1,"b":{"c":1},"d":"text","e":null}`, "body.omit('x').omit('b.x').omit('a.x').omit('d.x').omit('e.x')", `{"a":1,"b":{"c":1},"d":"text","e":null}`, ""},
		"omit in a list":      {`{"l":[{"a":1,"b":2},3,[{"a":4}],{"b":5}]}`, "body.omit('l.a')", `{"l":[{"b":2},3,[{}],{"b":5}]}`, ""},
		"omit of a list":      {`[{"a":1},{"b":2}]`, "body.omit('a')", `[{},{"b":2}]`, ""},
		"omit of a literal":   {`{"a":{"b":1}}`, "{'x': body.a, 'y': 1}.omit('x.b')", `{"x":{},"y":1}`, ""},
		"omit the last one":   {`{"a":1,"\u0061":2,"b":3}`, "body.omit('a')", `{"b":3}`, ""},
		"omit of headers":     {`{}`, "headers.omit('x-a')", `{}`, ""},
		"omit changes a copy": {`{"a":1}`, "[body.omit('a'), body]", `[{},{"a":1}]`, ""},
		"omit of a text":      {`{"a":"b"}`, "body.a.omit('b')", "", "rule 1, value: a value has another type than the expression needs"},
		"omit of an optional": {`{"a":{"b":1}}`, "{'x': dyn(body.?a).omit('b')}", "", "rule 1, value: a value has another type than the expression needs"},
		"missing":             {`{}`, "body.a", "", "rule 1, value: no such key: a"},
		"too long":            {`{"a":"` + strings.Repeat("a", 1_100_000) + `"}`, "[body.a, body.a]", "", "rule 1, value: the result has more than 2097152 bytes of JSON"},
		"longer as escapes":   {`{"a":"` + strings.Repeat(`\"`, 1_100_000) + `"}`, "body.a", "", "rule 1, value: the result has more than 2097152 bytes of JSON"},
		"longer as base64":    {`{"a":"` + strings.Repeat("a", 1_700_000) + `"}`, "bytes(body.a)", "", "rule 1, value: the result has more than 2097152 bytes of JSON"},
		"repeated":            {`{}`, grow("[['aaaaaaaaaa']]", ".map(x, [x,x,x,x,x,x,x,x])", 6, ""), "", "rule 1, value: the result has more than 2097152 bytes of JSON"},
		"repeated more":       {`{}`, grow("[[1]]", ".map(x, [x,x,x,x,x,x,x,x,x])", 10, ""), "", "rule 1, value: the expression costs too much, or its values are too large"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			judged, err := compile(t, define(resolveWith(c.value))).Judge(t.Context(), promise.WebhookInput{
				Header: map[string]string{"x-a": "1"}, Query: "q=2", Body: []byte(c.body),
			})
			require.NoError(t, err)
			checkJudged(t, judged, name)
			require.Equal(t, c.reason, judged.Items[0].Reason)
			require.Equal(t, c.reason != "", judged.Items[0].Failed)
			if c.want != "" {
				require.Equal(t, c.want, string(judged.Items[0].Result.Value))
			}
		})
	}
}

// anyJSON draws a JSON text whose integers have at most 64 bits.
func anyJSON(t *rapid.T, depth int) string {
	kinds := 8
	if depth == 0 {
		kinds = 6
	}
	switch rapid.IntRange(0, kinds-1).Draw(t, "kind") {
	case 0:
		return rapid.SampledFrom([]string{"null", "true", "false"}).Draw(t, "literal")
	case 1:
		return fmt.Sprint(rapid.Int64().Draw(t, "int"))
	case 2:
		return fmt.Sprint(rapid.Uint64().Draw(t, "uint"))
	case 3:
		f := rapid.Float64().Filter(func(f float64) bool { return !math.IsInf(f, 0) && !math.IsNaN(f) }).Draw(t, "double")
		return rapid.SampledFrom([]string{fmt.Sprintf("%e", f), fmt.Sprintf("%.20e", f), fmt.Sprintf("%.1f", math.Mod(f, 1e20))}).Draw(t, "form")
	case 4, 5:
		return quote(rapid.String().Draw(t, "text"))
	case 6:
		var elements []string
		for range rapid.IntRange(0, 4).Draw(t, "elements") {
			elements = append(elements, anyJSON(t, depth-1))
		}
		return "[" + strings.Join(elements, " ,") + "]"
	default:
		var fields []string
		for range rapid.IntRange(0, 4).Draw(t, "fields") {
			fields = append(fields, quote(rapid.String().Draw(t, "name"))+": "+anyJSON(t, depth-1))
		}
		return "{" + strings.Join(fields, ",") + "\n}"
	}
}

func quote(s string) string {
	text, err := json.Marshal(s)
	if err != nil {
		panic(err)
	}
	return string(text)
}

// same reports whether two JSON values are equal: integers by their digits, other numbers
// as doubles.
func same(a, b any) bool {
	switch x := a.(type) {
	case json.Number:
		y, ok := b.(json.Number)
		if !ok {
			return false
		}
		i, integer := new(big.Int).SetString(x.String(), 10)
		if integer {
			j, ok := new(big.Int).SetString(y.String(), 10)
			return ok && i.Cmp(j) == 0
		}
		f, err := x.Float64()
		g, err2 := y.Float64()
		return err == nil && err2 == nil && f == g
	case []any:
		y, ok := b.([]any)
		if !ok || len(x) != len(y) {
			return false
		}
		for i := range x {
			if !same(x[i], y[i]) {
				return false
			}
		}
		return true
	case map[string]any:
		y, ok := b.(map[string]any)
		if !ok || len(x) != len(y) {
			return false
		}
		for name := range x {
			if _, ok := y[name]; !ok || !same(x[name], y[name]) {
				return false
			}
		}
		return true
	default:
		return a == b
	}
}

func parse(t require.TestingT, text []byte) any {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	var v any
	require.NoError(t, d.Decode(&v))
	return v
}

// The body as a value is the same JSON value.
func TestBodyStaysTheSame(t *testing.T) {
	t.Parallel()
	p := compile(t, define(resolveWith("body")))
	rapid.Check(t, func(t *rapid.T) {
		body := anyJSON(t, 4)
		judged, err := p.Judge(background, promise.WebhookInput{Body: []byte(body)})
		require.NoError(t, err)
		require.False(t, judged.Items[0].Failed, judged.Items[0].Reason)
		value := judged.Items[0].Result.Value
		require.True(t, same(parse(t, []byte(body)), parse(t, value)), "%s became %s", body, value)
	})
}

// FuzzJudge judges arbitrary bodies by rules of every kind.
func FuzzJudge(f *testing.F) {
	var programs []*rule.Program
	for _, d := range []promise.SourceDefinition{
		{KeyPrefix: "x:", EventID: "body.id", Rules: []promise.SourceRule{
			resolve("body.type == 'a' && body.list.exists(x, x.n > 1)", "'x:' + string(body.id)"), rejectWith("body.message"),
		}},
		{KeyPrefix: "x:", Each: "body", EventID: "item.id", Rules: []promise.SourceRule{
			{When: "item.type == 'skip'", Then: "ignore"}, resolve("has(item.id)", "'x:' + string(item.id)"), rejectWith(""),
		}},
		{KeyPrefix: "x:", Each: "body.events.map(e, {'e': e})", Rules: []promise.SourceRule{resolve("", "'x:' + query.q + string(item.e)")}},
		define(resolveWith("{'b': body, 'q': query, 'n': body.?a.?b.orValue(0)}")),
		define(resolveWith("body.omit('id').omit('a.b').omit('list.n')")),
		define(resolve("body == body && !(body in [body, 1]) || body.list.matches('^a+$')", "body.s.split(',').join('-')"), resolveWith("body.map(x, [x, x])")),
	} {
		programs = append(programs, compile(f, d))
	}
	for _, name := range rule.Ready() {
		programs = append(programs, compile(f, promise.SourceDefinition{KeyPrefix: name[:len("s")], Rules: []promise.SourceRule{{Preset: name}}}))
	}
	for _, c := range readyCases {
		f.Add([]byte(c.body), "")
	}
	for _, body := range []string{
		`{"id":9007199254740993,"type":"a","list":[{"n":2}]}`, `{"message":null}`, `[{"id":1},{"type":"skip"},5,null,[]]`, `{"events":[1,"a",1e400]}`,
		`{"id":1,"a":[{"b":2}],"list":[[{"n":1}]]}`, `{"a":{"b":{"b":1}}}`, `{"list":"aaa","s":"x:1,2"}`, `[]`, `""`, `5`, `1e999999999`, `-0`, `{"a":{"b":1},"a":{"b":2}}`, `{"":""}`, `"\ud800"`, `{`, ``, ` null `, `[[[[[[]]]]]]`, `{} {}`, "\xff", `"\u0000"`,
	} {
		f.Add([]byte(body), "q=1&q=2&%")
	}
	f.Fuzz(func(t *testing.T, body []byte, query string) {
		for i, p := range programs {
			judged, err := p.Judge(t.Context(), promise.WebhookInput{Body: body, Query: query})
			require.NoError(t, err)
			checkJudged(t, judged, fmt.Sprintf("program %d: %q", i, body))
			for _, j := range judged.Items {
				if !json.Valid(body) {
					require.True(t, j.Failed)
				}
			}
		}
	})
}
