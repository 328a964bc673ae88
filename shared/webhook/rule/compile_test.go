package rule_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/promise"
	"github.com/flovyn/promises/shared/webhook/rule"
)

// A definition that Compile refuses is refused by its field, and the detail has the place
// in the expression and the fault.
func TestCompileRefuses(t *testing.T) {
	t.Parallel()
	good := resolve("body.ok", "'x:1'")
	for name, c := range map[string]struct {
		definition promise.SourceDefinition
		code       promise.Code
		field      string
		detail     string
	}{
		"syntax":                  {define(good, resolve("body.type == ", "'x:1'")), promise.CodeOutOfRange, "rules[1].when", "line 1, column 14: Syntax error"},
		"place on a second line":  {define(resolve("true &&\n  bdy.a", "'x:1'")), promise.CodeOutOfRange, "rules[0].when", "line 2, column 3: undeclared reference to 'bdy' (did you mean 'body'?). The variables are: body, headers, query."},
		"unknown function":        {define(resolve("now() == 1", "'x:1'")), promise.CodeOutOfRange, "rules[0].when", "column 4: undeclared reference to 'now'"},
		"when is a string":        {define(resolve("'a'", "'x:1'")), promise.CodeOutOfRange, "rules[0].when", "makes a value of type string. It must be a bool."},
		"key is an int":           {define(resolve("true", "1")), promise.CodeOutOfRange, "rules[0].key", "type int. It must be a string: use string(...)."},
		"key is optional":         {define(resolve("true", "body.?id")), promise.CodeOutOfRange, "rules[0].key", "type optional_type"},
		"key adds an int":         {define(resolve("true", "'x:' + 5")), promise.CodeOutOfRange, "rules[0].key", "column 6: found no matching overload for '_+_' applied to '(string, int)'"},
		"value is a type":         {define(resolveWith("type(body)")), promise.CodeOutOfRange, "rules[0].value", "It must be a value that JSON has"},
		"value is optional":       {define(resolveWith("body.?id")), promise.CodeOutOfRange, "rules[0].value", "use orValue(...)"},
		"error is a number":       {define(rejectWith("1.5")), promise.CodeOutOfRange, "rules[0].error", "type double. It must be a string or null"},
		"each is a map":           {promise.SourceDefinition{KeyPrefix: "x:", Each: "{'a': 1}"}, promise.CodeOutOfRange, "each", "type map. It must be a list."},
		"each sees no item":       {promise.SourceDefinition{KeyPrefix: "x:", Each: "item.a"}, promise.CodeOutOfRange, "each", "undeclared reference to 'item'. The variables are: body, headers, query."},
		"item without each":       {define(resolve("item.a", "'x:1'")), promise.CodeOutOfRange, "rules[0].when", "undeclared reference to 'item'"},
		"event id of a header":    {promise.SourceDefinition{KeyPrefix: "x:", EventID: "headers['x-id']"}, promise.CodeOutOfRange, "eventId", "column 1: undeclared reference to 'headers'. The variables are: body."},
		"event id of the query":   {promise.SourceDefinition{KeyPrefix: "x:", Each: "body", EventID: "query.id"}, promise.CodeOutOfRange, "eventId", "The variables are: body, item."},
		"event id is a list":      {promise.SourceDefinition{KeyPrefix: "x:", EventID: "[1]"}, promise.CodeOutOfRange, "eventId", "It must be a string or an int."},
		"message":                 {define(resolveWith("google.protobuf.Struct{}")), promise.CodeOutOfRange, "rules[0].value", "rules make no protobuf messages"},
		"pattern from the body":   {define(resolve("body.a.matches(body.b)", "'x:1'")), promise.CodeOutOfRange, "rules[0].when", "the pattern of matches must be a literal"},
		"pattern in a function":   {define(resolve("matches('a', body.b)", "'x:1'")), promise.CodeOutOfRange, "rules[0].when", "the pattern of matches must be a literal"},
		"many classes":            {define(resolve("body.a.matches(r'["+strings.Repeat(`\pL`, 11)+"]')", "'x:1'")), promise.CodeOutOfRange, "rules[0].when", `a pattern may have at most 10 classes \p and \P`},
		"ranges of any case":      {define(resolve("body.a.matches('(?i)[a-\u00ff]')", "'x:1'")), promise.CodeOutOfRange, "rules[0].when", "a pattern with the flag i must be ASCII"},
		"codes of any case":       {define(resolve(`body.a.matches(r'(?sim:[a-\x{10ffff}])')`, "'x:1'")), promise.CodeOutOfRange, "rules[0].when", "a pattern with the flag i must be ASCII"},
		"classes of any case":     {define(resolve(`body.a.matches(r'a(?-s)(?i)\pL')`, "'x:1'")), promise.CodeOutOfRange, "rules[0].when", "a pattern with the flag i must be ASCII"},
		"path from the body":      {define(resolveWith("body.omit(body.a)")), promise.CodeOutOfRange, "rules[0].value", "column 10: the path of omit must be a literal of names with a dot between them, such as 'data.object.token'."},
		"path without a name":     {define(resolveWith("body.omit('a..b')")), promise.CodeOutOfRange, "rules[0].value", "the path of omit must be a literal"},
		"empty path":              {define(resolveWith("body.omit('')")), promise.CodeOutOfRange, "rules[0].value", "the path of omit must be a literal"},
		"path that is a list":     {define(resolveWith("body.omit(['a'])")), promise.CodeOutOfRange, "rules[0].value", "the path of omit must be a literal"},
		"two paths":               {define(resolveWith("body.omit('a', 'b')")), promise.CodeOutOfRange, "rules[0].value", "the path of omit must be a literal"},
		"omit of an optional":     {define(resolveWith("{'x': body.?a.omit('b')}")), promise.CodeOutOfRange, "rules[0].value", "no matching overload for 'omit' applied to 'optional_type(dyn).(string)'"},
		"omit as a function":      {define(resolveWith("omit(body, 'a')")), promise.CodeOutOfRange, "rules[0].value", "the path of omit"},
		"invalid pattern":         {define(resolve("body.a.matches('(')", "'x:1'")), promise.CodeOutOfRange, "rules[0].when", "missing closing"},
		"large pattern":           {define(resolve("body.a.matches('(a{1,30}b{1,30}){1,20}')", "'x:1'")), promise.CodeOutOfRange, "rules[0].when", "regex program size"},
		"too many macros":         {define(resolve(grow("[1]", ".map(x, x)", 11, " == []"), "'x:1'")), promise.CodeOutOfRange, "rules[0].when", "at most 10 calls of map"},
		"too many lists":          {define(resolveWith(strings.Repeat("[", 17) + strings.Repeat("]", 17))), promise.CodeOutOfRange, "rules[0].value", "at most 16 lists, maps"},
		"too many optionals":      {define(resolve(strings.Repeat("optional.of(", 17)+"1"+strings.Repeat(")", 17)+".hasValue()", "'x:1'")), promise.CodeOutOfRange, "rules[0].when", "and calls of optional.of and type within each other"},
		"too many types":          {define(resolve(strings.Repeat("type(", 17)+"1"+strings.Repeat(")", 17)+" == type", "'x:1'")), promise.CodeOutOfRange, "rules[0].when", "and calls of optional.of and type within each other"},
		"too deep":                {define(resolveWith("1" + strings.Repeat("+1", 1000))), promise.CodeOutOfRange, "rules[0].value", "max recursion depth exceeded"},
		"too long":                {define(resolveWith("'" + strings.Repeat("a", promise.MaxExpression) + "'")), promise.CodeOutOfRange, "rules[0].value", "at most 4096 bytes"},
		"too long in all":         {define(slices.Repeat([]promise.SourceRule{resolveWith("'" + strings.Repeat("a", 4000) + "'")}, 17)...), promise.CodeOutOfRange, "rules", "at most 65536 bytes in all"},
		"too many rules":          {define(slices.Repeat([]promise.SourceRule{good}, 101)...), promise.CodeOutOfRange, "rules", "at most 100 rules"},
		"too many after presets":  {promise.SourceDefinition{KeyPrefix: "stripe:", Rules: slices.Repeat([]promise.SourceRule{{Preset: "stripe.charge"}}, 34)}, promise.CodeOutOfRange, "rules", "at most 100 rules"},
		"then is missing":         {define(promise.SourceRule{Key: "'x:1'"}), promise.CodeMissingField, "rules[0].then", "Send resolve, reject or ignore."},
		"then is unknown":         {define(promise.SourceRule{Key: "'x:1'", Then: "Resolve"}), promise.CodeOutOfRange, "rules[0].then", "must be resolve, reject or ignore"},
		"key is missing":          {define(promise.SourceRule{Then: "reject"}), promise.CodeMissingField, "rules[0].key", "rules[0].key is missing"},
		"key with ignore":         {define(promise.SourceRule{Key: "'x:1'", Then: "ignore"}), promise.CodeOutOfRange, "rules[0].key", "must be absent"},
		"value with reject":       {define(promise.SourceRule{Key: "'x:1'", Then: "reject", Value: "1"}), promise.CodeOutOfRange, "rules[0].value", "must be absent"},
		"error with resolve":      {define(promise.SourceRule{Key: "'x:1'", Then: "resolve", Error: "'a'"}), promise.CodeOutOfRange, "rules[0].error", "must be absent"},
		"hold of a rule":          {define(promise.SourceRule{Key: "'x:1'", Then: "resolve", HoldSeconds: pointer(604_801)}), promise.CodeOutOfRange, "rules[0].holdSeconds", "0 to 604800"},
		"negative hold":           {define(promise.SourceRule{Key: "'x:1'", Then: "resolve", HoldSeconds: pointer(-1)}), promise.CodeOutOfRange, "rules[0].holdSeconds", "0 to 604800"},
		"hold of the source":      {promise.SourceDefinition{KeyPrefix: "x:", HoldSeconds: -1}, promise.CodeOutOfRange, "holdSeconds", "0 to 604800"},
		"preset with more":        {define(promise.SourceRule{Preset: "stripe.charge", Then: "resolve"}), promise.CodeOutOfRange, "rules[0]", "only holdSeconds"},
		"unknown preset":          {define(promise.SourceRule{Preset: "stripe.charges"}), promise.CodeOutOfRange, "rules[0].preset", "must be one of github.review, github.workflow_run, slack.button, stripe.charge,"},
		"hold of a preset":        {promise.SourceDefinition{KeyPrefix: "stripe:", Rules: []promise.SourceRule{{Preset: "stripe.charge", HoldSeconds: pointer(-1)}}}, promise.CodeOutOfRange, "rules[0].holdSeconds", "0 to 604800"},
		"preset of other keys":    {define(promise.SourceRule{Preset: "github.review"}), promise.CodeOutOfRange, "rules[0].preset", "Send keyPrefix github:review:."},
		"no prefix":               {promise.SourceDefinition{}, promise.CodeOutOfRange, "keyPrefix", "1 to 100 characters"},
		"long prefix":             {promise.SourceDefinition{KeyPrefix: strings.Repeat("é", 101)}, promise.CodeOutOfRange, "keyPrefix", "1 to 100 characters"},
		"prefix with NUL":         {promise.SourceDefinition{KeyPrefix: "a\x00"}, promise.CodeNULCharacter, "keyPrefix", "NUL"},
		"prefix that is not UTF8": {promise.SourceDefinition{KeyPrefix: "a\xff"}, promise.CodeInvalidUTF8, "keyPrefix", "UTF-8"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := rule.Compile(c.definition)
			var e *promise.Error
			require.ErrorAs(t, err, &e)
			require.Equal(t, c.code, e.Code, e.Detail)
			require.Equal(t, c.field, e.Field, e.Detail)
			require.Contains(t, e.Detail, c.detail)
			require.NoError(t, e.Cause)
			require.Less(t, len(e.Detail), 500)
			require.True(t, strings.HasSuffix(e.Detail, "."), e.Detail)
		})
	}
}

// Expressions of usual lengths and depths compile, and so does a source at its limits.
func TestCompileAccepts(t *testing.T) {
	t.Parallel()
	for name, d := range map[string]promise.SourceDefinition{
		"no rules":          define(),
		"longest prefix":    {KeyPrefix: strings.Repeat("é", 100)},
		"a hundred rules":   define(slices.Repeat([]promise.SourceRule{resolve("body.ok", "'x:1'")}, 100)...),
		"a long sum":        define(resolve("true", "'x:'"+strings.Repeat(" + body.a", 60))),
		"dyn for each part": {KeyPrefix: "x:", EventID: "body.a", Each: "body.a", Rules: []promise.SourceRule{{When: "item.a", Key: "item.a", Then: "reject", Error: "item.a"}}},
		"usual patterns":    define(resolve(`body.a.matches(r'^(?i)[0-9a-f]{8}-[a-z]+$') || body.a.matches('^[а-я]+ \\pL+$')`, "'x:1'")),
		"null for an error": define(rejectWith("null")),
		"a week":            define(promise.SourceRule{Then: "ignore", HoldSeconds: pointer(604_800)}),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := rule.Compile(d)
			require.NoError(t, err)
		})
	}
}

// The sources' texts bound the time of a compilation, so these limits hold.
func TestCompileIsBounded(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"lists":              strings.Repeat("[", 16) + strings.Repeat("]", 16) + " == []",
		"calls":              strings.Repeat("size([", 16) + strings.Repeat("])", 16) + " == 0",
		"conditions":         strings.Repeat("(true ? ", 40) + "1" + strings.Repeat(" : 1)", 40) + " == 1",
		"macros":             grow("[[0]]", ".map(x,[x,x,x,x,x,x,x,x,x,x])", 10, " == []"),
		"nested macros":      strings.Repeat("[1].all(x,", 10) + "true" + strings.Repeat(")", 10),
		"optional":           "body" + strings.Repeat(".?a", 90) + ".orValue(1) == 1",
		"many list elements": "[" + strings.Repeat("1,", 2000) + "1] == []",
		"many map entries":   "{" + strings.Repeat("1:1,", 1000) + "1:1} == {}",
		"many overloads":     "body" + strings.Repeat("+body", 60) + " == 1",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := rule.Compile(define(resolve(text, "'x:1'")))
			require.NoError(t, err)
		})
	}
}

// FuzzCompile compiles arbitrary expressions in every place. Each error has a field, and
// a bounded text without control characters.
func FuzzCompile(f *testing.F) {
	for _, text := range []string{
		"body.a == 1", "'x:' + string(body.id)", "body.?a.b.orValue('')", "[1,2].map(x, x * 2)", "{'a': body}", "has(body.a)", "a.b(", "'\\x00'",
		"body.a.matches('^a+$')", "google.protobuf.Value{}", "type(1)", "b'\\xff'", "\xff", "1 +", "timestamp('2026-01-01T00:00:00Z')", "null", "true ? 1 : 'a'",
		"body.omit('b.c').omit('a')", "[body].omit('a')", "body.omit(body.a)", "headers['a']", "query.a", "item", "{?'a': body.?b}", "[?body.?b]", "dyn(1)", "-9223372036854775808", "18446744073709551615u", "body.a.split(',').join('-')",
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		for field, d := range map[string]promise.SourceDefinition{
			"eventId":        {KeyPrefix: "x:", EventID: text},
			"each":           {KeyPrefix: "x:", Each: text},
			"rules[0].when":  define(resolve(text, "'x:1'")),
			"rules[0].key":   define(resolve("", text)),
			"rules[0].value": define(resolveWith(text)),
			"rules[0].error": define(rejectWith(text)),
		} {
			p, err := rule.Compile(d)
			if err != nil {
				e := promise.AsError(err)
				if text == "" || len(text) > rule.MaxExpressions {
					continue
				}
				require.Equal(t, field, e.Field, "%+v", e)
				require.Less(t, len(e.Detail), 600)
				require.NotContains(t, e.Detail, "\n")
				continue
			}
			judged, err := p.Judge(t.Context(), promise.WebhookInput{Body: []byte(`{"id":9007199254740993,"a":"b,c","b":[1,{"c":null}]}`), Query: "a=b"})
			require.NoError(t, err)
			checkJudged(t, judged, fmt.Sprintf("%s: %q", field, text))
		}
	})
}
