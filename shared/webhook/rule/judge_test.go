package rule_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/promise"
	"github.com/flovyn/promises/shared/webhook/rule"
)

// checkJudged checks the rules that hold for every result of Judge.
func checkJudged(t *testing.T, judged promise.Judged, message string) {
	t.Helper()
	if !judged.Each {
		require.Len(t, judged.Items, 1, message)
	}
	require.LessOrEqual(t, len(judged.Items), promise.MaxSourceItems, message)
	for _, j := range judged.Items {
		require.LessOrEqual(t, len(j.Reason), promise.MaxReason, message)
		require.True(t, utf8.ValidString(j.Reason), message)
		require.LessOrEqual(t, len(j.EventID), promise.MaxEventID, message)
		if j.Failed {
			require.NotEmpty(t, j.Reason, message)
			require.Equal(t, promise.Result{}, j.Result, message)
			continue
		}
		switch j.Then {
		case "ignore":
			require.Equal(t, promise.Result{}, j.Result, message)
			require.Empty(t, j.Key, message)
		case "resolve":
			require.NoError(t, promise.CheckIdempotencyKey(j.Key), message)
			require.Equal(t, promise.Resolved, j.Result.State, message)
			require.Nil(t, j.Result.Message, message)
			require.True(t, json.Valid(j.Result.Value), "%s: %s", message, j.Result.Value)
		case "reject":
			require.NoError(t, promise.CheckIdempotencyKey(j.Key), message)
			require.Equal(t, promise.Rejected, j.Result.State, message)
			require.NotEmpty(t, *j.Result.Message, message)
			require.NotContains(t, *j.Result.Message, "\x00", message)
			require.Nil(t, j.Result.Value, message)
		default:
			t.Fatalf("%s: then is %q", message, j.Then)
		}
	}
}

func TestKeys(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ body, key, want, reason string }{
		"beyond a double's integers":   {`{"id":9007199254740993}`, "'x:' + string(body.id)", "x:9007199254740993", ""},
		"an int that prints as 3.0e+7": {`{"id":30433642}`, "'x:' + string(body.id)", "x:30433642", ""},
		"largest int":                  {`{"id":9223372036854775807}`, "'x:' + string(body.id)", "x:9223372036854775807", ""},
		"smallest int":                 {`{"id":-9223372036854775808}`, "'x:' + string(body.id)", "x:-9223372036854775808", ""},
		"largest uint":                 {`{"id":18446744073709551615}`, "'x:' + string(body.id)", "x:18446744073709551615", ""},
		"larger than a uint":           {`{"id":18446744073709551616}`, "'x:' + string(body.id)", "x:18446744073709551616", ""},
		"smaller than an int":          {`{"id":-9223372036854775809}`, "'x:' + string(body.id)", "x:-9223372036854775809", ""},
		"thirty digits":                {`{"id":123456789012345678901234567890}`, "'x:' + string(body.id)", "x:123456789012345678901234567890", ""},
		"minus zero":                   {`{"id":-0}`, "'x:' + string(body.id)", "x:0", ""},
		"a fraction of zero":           {`{"id":1.0}`, "'x:' + string(body.id)", "x:1", ""},
		"an exponent":                  {`{"id":1e3}`, "'x:' + string(body.id)", "x:1000", ""},
		"a double":                     {`{"id":0.1}`, "'x:' + string(body.id)", "x:0.1", ""},
		"no double holds it":           {`{"id":1e400}`, "'x:' + string(body.id)", "x:1e400", ""},
		"tiny":                         {`{"id":1e-400}`, "'x:' + string(body.id)", "x:0", ""},
		"integers in a list":           {`{"ids":[9007199254740993]}`, "'x:' + string(body.ids[0])", "x:9007199254740993", ""},
		"arithmetic stays exact":       {`{"id":9007199254740992}`, "'x:' + string(body.id + 1)", "x:9007199254740993", ""},
		"a text":                       {`{"id":"ch_1"}`, "'x:' + body.id", "x:ch_1", ""},
		"repeated names":               {`{"id":"a","id":"b"}`, "'x:' + body.id", "x:b", ""},
		"an escaped name":              {`{"a b":"c"}`, "'x:' + body['a b']", "x:c", ""},
		"the body is a list":           {`["a"]`, "'x:' + body[0]", "x:a", ""},
		"the body is a text":           {`"a"`, "'x:' + body", "x:a", ""},
		"an optional field":            {`{}`, "'x:' + body.?a.b.orValue('none')", "x:none", ""},
		"has":                          {`{"a":1}`, "has(body.a) ? 'x:has' : 'x:not'", "x:has", ""},
		"lower case":                   {`{"a":"ÉAbc"}`, "'x:' + body.a.lowerAscii()", "x:Éabc", ""},
		"upper case":                   {`{"a":"éAbc"}`, "'x:' + body.a.upperAscii()", "x:éABC", ""},
		"split and join":               {`{"a":"a/b/c"}`, "'x:' + body.a.split('/').join('-')", "x:a-b-c", ""},
		"join without a separator":     {`{"a":["b","c"]}`, "'x:' + body.a.join()", "x:bc", ""},
		"trim":                         {`{"a":" b\n"}`, "'x:' + body.a.trim()", "x:b", ""},
		"replace":                      {`{"a":"b.c.d"}`, "'x:' + body.a.replace('.', '')", "x:bcd", ""},
		"substring":                    {`{"a":"éàb"}`, "'x:' + body.a.substring(1) + body.a.substring(0, 1)", "x:àbé", ""},
		"indexOf":                      {`{"a":"éàbà"}`, "'x:' + string(body.a.indexOf('à')) + string(body.a.lastIndexOf('à')) + string(body.a.indexOf('z'))", "x:13-1", ""},
		"a pattern":                    {`{"a":"abc"}`, "body.a.matches('^a.c$') ? 'x:yes' : 'x:no'", "x:yes", ""},
		"a time":                       {`{"a":"2026-01-02T03:04:05Z"}`, "'x:' + string(timestamp(body.a).getFullYear())", "x:2026", ""},

		"not a string":          {`{"id":5}`, "body.id", "", "rule 1, key: the result is of type int, and must be a string: use string(...)"},
		"null":                  {`{"id":null}`, "'x:' + body.id", "", "rule 1, key: a value has another type than the expression needs"},
		"a sum with an int":     {`{"id":5}`, "'x:' + body.id", "", "rule 1, key: a value has another type than the expression needs"},
		"missing field":         {`{}`, "'x:' + body.object.id", "", "rule 1, key: no such key: object"},
		"missing index":         {`{"a":[]}`, "'x:' + body.a[0]", "", "rule 1, key: the list has no such index"},
		"the wrong prefix":      {`{"id":"y:1"}`, "body.id", "", "rule 1, key: the key y:1 does not begin with the source's keyPrefix x:"},
		"a long key":            {`{"id":"` + strings.Repeat("a", 1000) + `"}`, "body.id", "", "rule 1, key: An idempotency key must have 1 to"},
		"an empty key":          {`{"id":""}`, "body.id", "", "rule 1, key: An idempotency key must have 1 to"},
		"a key with NUL":        {`{"id":"\u0000"}`, "'x:' + body.id", "", "rule 1, key: An idempotency key must not contain a NUL character."},
		"a lone surrogate":      {`{"id":"\ud800"}`, "'x:' + body.id", "", "rule 1, key: An idempotency key must be valid UTF-8"},
		"a conversion":          {`{"id":[]}`, "'x:' + string(body.id)", "", "rule 1, key: a value has another type than the expression needs"},
		"a division":            {`{"id":0}`, "'x:' + string(1 / body.id)", "", "rule 1, key: division by zero"},
		"an overflow":           {`{"id":9223372036854775807}`, "'x:' + string(body.id + 1)", "", "rule 1, key: integer overflow"},
		"an absent optional":    {`{}`, "'x:' + body.?a.value()", "", "rule 1, key: an optional value is absent"},
		"a range":               {`{"a":"b"}`, "'x:' + body.a.substring(2)", "", "rule 1, key: the range of substring is outside of the text"},
		"a join of numbers":     {`{"a":[1]}`, "'x:' + body.a.join()", "", "rule 1, key: a value has another type than the expression needs"},
		"a long text":           {`{"a":"` + strings.Repeat("a", 65_537) + `"}`, "body.a.matches('a') ? 'x:1' : 'x:2'", "", "rule 1, key: matches takes a text of at most 65536 bytes"},
		"a large split":         {`{"a":"` + strings.Repeat("a", 10_001) + `"}`, "'x:' + body.a.split('')[0]", "", "rule 1, key: split makes more than 10000 texts"},
		"an explosive replace":  {`{"a":"` + strings.Repeat("a", 5_000) + `"}`, "'x:' + body.a.replace('', body.a)", "", "rule 1, key: replace makes more than 1048576 bytes"},
		"an explosive join":     {`{"a":"` + strings.Repeat("a", 5_000) + `"}`, "'x:' + body.a.split('').join(body.a)", "", "rule 1, key: join makes more than 1048576 bytes"},
		"a body that is no map": {`5`, "'x:' + body.id", "", "rule 1, key: "},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			j := judgeOne(t, define(resolve("", c.key)), c.body)
			require.Equal(t, c.reason != "", j.Failed, "%+v", j)
			if j.Failed {
				require.Contains(t, j.Reason, c.reason)
			} else {
				require.Equal(t, c.want, j.Key)
				require.Equal(t, c.body, string(j.Result.Value))
			}
		})
	}
}

// A reason has no value of the request beside the key that lacks the prefix.
func TestReasonsKeepSecrets(t *testing.T) {
	t.Parallel()
	const secret = "hunter2"
	body := `{"s":"` + secret + `","l":[1],"m":{},"big":"` + strings.Repeat(secret, 10_000) + `"}`
	for _, text := range []string{
		"body.m[body.s]", "body.l[body.s]", "body[body.big]", "int(body.s)", "int(body.big)", "uint(body.s)", "double(body.s)", "timestamp(body.s)",
		"timestamp(body.big)", "duration(body.s)", "body.s + 1", "bool(body.s)", "bool(body.big)", "timestamp(0).getHours(body.s)", "[body.s, 1].join()",
		"{body.s: 1, body.s: 2}", "body.s.substring(100)", "body.s.nosuch", "body.s[0]", "body.l[5]", "-body.s", "!body.s", "body.s ? 1 : 2", "body.s && true",
		"body.l.map(x, body.m[body.s])", "body.s < 1", "bytes(body.l)", "string(body.m)", "dyn(body.s).value()", "[?body.s]", "{?'a': body.s}",
		"body.s.exists(x, true)", "optional.none().value()", "body.s in body.s", "size(1 > 0 ? dyn(1) : dyn(2))",
	} {
		t.Run(text, func(t *testing.T) {
			t.Parallel()
			p, err := rule.Compile(promise.SourceDefinition{
				KeyPrefix: "x:", EventID: "dyn(" + text + ")",
				Rules: []promise.SourceRule{resolve("dyn("+text+") == 'a'", "'x:1'"), resolve("", "dyn("+text+")")},
			})
			require.NoError(t, err)
			judged, err := p.Judge(t.Context(), promise.WebhookInput{Body: []byte(body)})
			require.NoError(t, err)
			checkJudged(t, judged, text)
			require.NotContains(t, judged.Items[0].Reason, secret)
			require.NotEmpty(t, judged.Items[0].Reason)
		})
	}
}

func TestFirstMatchApplies(t *testing.T) {
	t.Parallel()
	d := define(
		resolve("body.type == 'a'", "'x:1'"),
		promise.SourceRule{When: "body.type == 'b'", Then: "ignore"},
		promise.SourceRule{When: "body.type.startsWith('b')", Key: "'x:' + body.type", Then: "reject", Error: "body.why", HoldSeconds: pointer(0)},
		resolve("body.type == 'a'", "'x:4'"),
	)
	d.HoldSeconds = 60
	text := func(s string) *string { return &s }
	for body, want := range map[string]promise.Judgment{
		`{"type":"a"}`:            {Rule: "1", Then: "resolve", Key: "x:1", Hold: time.Minute, Result: promise.Result{State: promise.Resolved, Value: []byte(`{"type":"a"}`)}},
		`{"type":"b"}`:            {Rule: "2", Then: "ignore"},
		`{"type":"bc","why":"d"}`: {Rule: "3", Then: "reject", Key: "x:bc", Result: promise.Result{State: promise.Rejected, Message: text("d")}},
		`{"type":"bc"}`:           {Rule: "3", Then: "reject", Key: "x:bc", Failed: true, Reason: "rule 3, error: no such key: why"},
		`{"type":"c"}`:            {Then: "ignore"},
		`{}`: {Then: "ignore", Reason: "rule 1, when: no such key: type; rule 2, when: no such key: type; rule 3, when: no such key: type; " +
			"rule 4, when: no such key: type"},
		`{"type":5}`: {Then: "ignore", Reason: "rule 3, when: a value has another type than the expression needs"},
		`[]`: {Then: "ignore", Reason: "rule 1, when: a list's index must be an int; rule 2, when: a list's index must be an int; " +
			"rule 3, when: a list's index must be an int; rule 4, when: a list's index must be an int"},
	} {
		t.Run(body, func(t *testing.T) {
			t.Parallel()
			require.Equal(t, want, judgeOne(t, d, body))
		})
	}
}

// An error in `when` counts as false, and the rule that applies later has it in its
// reason.
func TestErrorInWhen(t *testing.T) {
	t.Parallel()
	j := judgeOne(t, define(resolve("body.a.b", "'x:1'"), resolve("body.c", "'x:2'"), resolve("true", "'x:3'")), `{"c":"text"}`)
	require.False(t, j.Failed)
	require.Equal(t, "3", j.Rule)
	require.Equal(t, "x:3", j.Key)
	require.Equal(t, "rule 1, when: no such key: a; rule 2, when: the result is of type string, and must be a bool", j.Reason)

	j = judgeOne(t, define(resolve("body.a.b", "'x:1'"), resolve("true", "body.c")), `{}`)
	require.True(t, j.Failed)
	require.Equal(t, "rule 2, key: no such key: c; rule 1, when: no such key: a", j.Reason, "the failure comes first")
}

func TestHeadersAndQuery(t *testing.T) {
	t.Parallel()
	p := compile(t, define(resolve("headers['x-event'] == 'paid' && query.tenant == 'a'", "'x:' + query.id + ('none' in query ? '1' : '2')")))
	judged, err := p.Judge(t.Context(), promise.WebhookInput{
		Header: map[string]string{"x-event": "paid"}, Query: "tenant=a&tenant=b&id=5%2F6&%zz", Body: []byte(`{}`),
	})
	require.NoError(t, err)
	require.Equal(t, "x:5/62", judged.Items[0].Key)

	judged, err = p.Judge(t.Context(), promise.WebhookInput{Body: []byte(`{}`)})
	require.NoError(t, err)
	require.Equal(t, promise.Judgment{Then: "ignore", Reason: "rule 1, when: no such key: x-event"}, judged.Items[0])
}

func TestEventID(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ body, want, reason string }{
		"text":           {`{"id":"evt_1"}`, "evt_1", ""},
		"int":            {`{"id":9007199254740993}`, "9007199254740993", ""},
		"uint":           {`{"id":18446744073709551615}`, "18446744073709551615", ""},
		"longest":        {`{"id":"` + strings.Repeat("a", 200) + `"}`, strings.Repeat("a", 200), ""},
		"too long":       {`{"id":"` + strings.Repeat("a", 201) + `"}`, "", "eventId: the result must have at most 200 bytes without NUL"},
		"empty":          {`{"id":""}`, "", ""},
		"NUL":            {`{"id":"\u0000"}`, "", "eventId: the result must have at most 200 bytes without NUL"},
		"double":         {`{"id":1.5}`, "", "eventId: the result is of type double, and must be a string or an int"},
		"null":           {`{"id":null}`, "", "eventId: the result is of type null_type, and must be a string or an int"},
		"missing":        {`{}`, "", "eventId: no such key: id"},
		"no object":      {`[]`, "", "eventId: a list's index must be an int"},
		"wrong type too": {`{"id":{}}`, "", "eventId: the result is of type map, and must be a string or an int"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := define(resolve("true", "'x:1'"))
			d.EventID = "body.id"
			j := judgeOne(t, d, c.body)
			require.Equal(t, c.want, j.EventID)
			require.Equal(t, c.reason, j.Reason)
			require.False(t, j.Failed, "the digest identifies the event")
			require.Equal(t, "x:1", j.Key)
		})
	}
}

func TestEach(t *testing.T) {
	t.Parallel()
	d := promise.SourceDefinition{KeyPrefix: "x:", Each: "body.events", EventID: "item.id", Rules: []promise.SourceRule{
		resolve("item.type == 'done'", "'x:' + item.key"),
		{When: "item.type == 'failed'", Key: "'x:' + item.key", Then: "reject"},
	}}
	judged := judge(t, d, `{"events": [{"id":"1","type":"done","key":"a", "n": 123456789012345678901234567890 }, {"type":"failed","key":"b"},
		{"id":3,"type":"done"}, {"id":"4","type":"other"}, 5]}`)
	checkJudged(t, judged, "each")
	require.True(t, judged.Each)
	message := `{"type":"failed","key":"b"}`
	require.Equal(t, []promise.Judgment{
		{EventID: "1", Rule: "1", Then: "resolve", Key: "x:a", Result: promise.Result{
			State: promise.Resolved, Value: []byte(`{"id":"1","type":"done","key":"a", "n": 123456789012345678901234567890 }`),
		}},
		{Rule: "2", Then: "reject", Key: "x:b", Reason: "eventId: no such key: id", Result: promise.Result{State: promise.Rejected, Message: &message}},
		{EventID: "3", Rule: "1", Then: "resolve", Failed: true, Reason: "rule 1, key: no such key: key"},
		{EventID: "4", Then: "ignore"},
		judged.Items[4],
	}, judged.Items)
	require.Equal(t, "ignore", judged.Items[4].Then)
	require.Contains(t, judged.Items[4].Reason, "rule 2, when: ")

	require.Equal(t, promise.Judged{Items: []promise.Judgment{}, Each: true}, judge(t, d, `{"events":[]}`))
}

// An expression may make the list of items. Their values are JSON then.
func TestEachMakesItems(t *testing.T) {
	t.Parallel()
	d := promise.SourceDefinition{KeyPrefix: "x:", Each: "body.ids.map(i, {'z': i, 'a': body.name})", Rules: []promise.SourceRule{resolve("", "'x:' + string(item.z)")}}
	judged := judge(t, d, `{"ids":[9007199254740993,"b"],"name":"<n>"}`)
	require.True(t, judged.Each)
	require.Len(t, judged.Items, 2)
	require.Equal(t, "x:9007199254740993", judged.Items[0].Key)
	require.Equal(t, `{"a":"<n>","z":9007199254740993}`, string(judged.Items[0].Result.Value))
	require.Equal(t, `{"a":"<n>","z":"b"}`, string(judged.Items[1].Result.Value))
}

// If no item can be judged, the request has one judgment.
func TestEachFails(t *testing.T) {
	t.Parallel()
	d := promise.SourceDefinition{KeyPrefix: "x:", Each: "body.events", Rules: []promise.SourceRule{resolve("", "'x:1'")}}
	for body, reason := range map[string]string{
		`{}`:                       "each: no such key: events",
		`{"events":{"a":1}}`:       "each: the result is of type map, and must be a list",
		`{"events":null}`:          "each: the result is of type null_type, and must be a list",
		`[1]`:                      "each: a list's index must be an int",
		`{"events":[` + many(1001): "each: the list has 1001 items, and may have 1000",
		`{`:                        "the body is not JSON",
		``:                         "the body is not JSON",
		`{} {}`:                    "the body is not JSON",
		strings.Repeat("[", 257) + strings.Repeat("]", 257): "the body is nested deeper than 256",
		`{"a":[` + many(100_001):                            "the body has more than 100000 JSON values",
	} {
		t.Run(fmt.Sprintf("%.20s", body), func(t *testing.T) {
			t.Parallel()
			judged := judge(t, d, body)
			require.Equal(t, promise.Judged{Items: []promise.Judgment{{Failed: true, Reason: reason}}}, judged)
		})
	}
	require.Len(t, judge(t, d, `{"events":[`+many(1000)).Items, 1000)
}

// many returns n elements of a list and the end of an object with it.
func many(n int) string { return strings.TrimSuffix(strings.Repeat("1,", n), ",") + "]}" }

func TestRejections(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ body, message, want, reason string }{
		"a text":        {`{"m":"no funds"}`, "body.m", "no funds", ""},
		"null":          {`{"m":null}`, "body.m", "rejected by rule 1", ""},
		"empty":         {`{"m":""}`, "body.m", "rejected by rule 1", ""},
		"no expression": {" {\"m\": 1}\n", "", `{"m": 1}`, ""},
		"missing":       {`{}`, "body.m", "", "rule 1, error: no such key: m"},
		"optional":      {`{}`, "body.?m.orValue(null)", "rejected by rule 1", ""},
		"a number":      {`{"m":5}`, "body.m", "", "rule 1, error: the result is of type int, and must be a string or null: use string(...)"},
		"NUL":           {`{"m":"a\u0000"}`, "body.m", "", "rule 1, error: the result contains a NUL character"},
		"too long":      {`{"m":"` + strings.Repeat("a", 600_000) + `"}`, "body.m + body.m + body.m + body.m", "", "rule 1, error: the result has more than 2097152 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			j := judgeOne(t, define(rejectWith(c.message)), c.body)
			require.Equal(t, c.reason, j.Reason)
			require.Equal(t, c.reason != "", j.Failed)
			if !j.Failed {
				require.Equal(t, promise.Rejected, j.Result.State)
				require.Equal(t, c.want, *j.Result.Message)
			}
		})
	}
}

// An endingContext ends when it has been asked a number of times.
type endingContext struct {
	context.Context
	asks int
}

func (c *endingContext) Err() error {
	if c.asks--; c.asks < 0 {
		return context.DeadlineExceeded
	}
	return nil
}

// Judge fails if its context ends at any time, and then it returns no judgment.
func TestContextEnds(t *testing.T) {
	t.Parallel()
	d := promise.SourceDefinition{KeyPrefix: "x:", Each: "body", EventID: "item", Rules: []promise.SourceRule{resolve("item == 'a'", "'x:1'"), resolve("", "'x:2'")}}
	p := compile(t, d)
	in := promise.WebhookInput{Body: []byte(`["a","b","a"]`)}
	ended := 0
	for asks := 0; ; asks++ {
		judged, err := p.Judge(&endingContext{t.Context(), asks}, in)
		if err == nil {
			require.Len(t, judged.Items, 3)
			break
		}
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Empty(t, judged.Items)
		ended++
	}
	require.Greater(t, ended, 10)

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := p.Judge(ctx, in)
	require.ErrorIs(t, err, context.Canceled)
}

// A program may judge many requests at the same time.
func TestConcurrentUse(t *testing.T) {
	t.Parallel()
	p := compile(t, define(resolve("body.a.matches('^k')", "'x:' + body.a + query.q")))
	for i := range 8 {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			t.Parallel()
			for n := range 50 {
				body := fmt.Sprintf(`{"a":"k%d-%d"}`, i, n)
				judged, err := p.Judge(t.Context(), promise.WebhookInput{Body: []byte(body), Query: "q=z"})
				require.NoError(t, err)
				require.Equal(t, fmt.Sprintf("x:k%d-%dz", i, n), judged.Items[0].Key)
			}
		})
	}
}
