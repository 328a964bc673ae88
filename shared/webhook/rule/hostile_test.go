package rule_test

import (
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/promise"
)

// hostileBody has long texts and lists, and an object with many members.
func hostileBody() []byte {
	// An expression over n is cheap, unless a function is: a loop over l is expensive as it is.
	numbers := strings.TrimSuffix(strings.Repeat("1,", 50_000), ",")
	var wide strings.Builder
	for i := range 20_000 {
		fmt.Fprintf(&wide, `"n%d":1,`, i)
	}
	return []byte(`{"s":"` + strings.Repeat("ab", 1<<20) + `","m":"` + strings.Repeat("ab", 1<<14) + `","l":[` + numbers + `],"w":{` + wide.String() + `"last":1},"k":"` + strings.Repeat("a", 1<<16) + `","n":[` + strings.Repeat("1,", 9) + `1],"o":{"id":5}}`)
}

// grow returns an expression that starts with a list and repeats a macro.
func grow(seed, step string, n int, tail string) string { return seed + strings.Repeat(step, n) + tail }

// hostile are expressions whose time or memory would have no bound without limits.
var hostile = map[string]string{
	"double a text":           grow("[body.s]", ".map(x, x+x)", 10, "[0].size() > 0"),
	"double a list":           grow("[body.l]", ".map(x, x+x)", 10, "[0].size() > 0"),
	"search a doubled list":   grow("[body.l]", ".map(x, x+x)", 8, ".exists(x, -5 in x)"),
	"nest a list":             grow("[body.l]", ".map(x, [x,x,x,x])", 10, "[0].size() > 0"),
	"compare nested lists":    grow("[[[0],[0]]]", ".map(x, [[x[0],x[0],x[0],x[0],x[0],x[0]],[x[1],x[1],x[1],x[1],x[1],x[1]]])", 9, ".exists(a, a[0] == a[1])"),
	"compare nested maps":     grow("[[{'a':0},{'a':0}]]", ".map(x, [{'a':x[0],'b':x[0],'c':x[0],'d':x[0]},{'a':x[1],'b':x[1],'c':x[1],'d':x[1]}])", 9, ".exists(a, a[0] == a[1])"),
	"three loops":             "body.l.exists(a, body.l.exists(b, body.l.exists(c, a+b+c < -1)))",
	"pattern in a loop":       "body.l.exists(a, body.m.matches('(a|b|ab|ba|abab)*(a|b)*c$'))",
	"long pattern in a loop":  "body.n.exists(a, body.k.matches('.{0,60}x$'))",
	"pattern of classes":      "body.n.exists(a, body.k.matches('\\\\pL{90}x'))",
	"short text in a loop":    "body.l.exists(a, 'ababababa'.matches('[ab]{0,60}[^a]{0,20}x'))",
	"split to letters":        "body.l.exists(a, body.k.substring(0, 9999).split('').size() == 0)",
	"long time zone":          "body.l.exists(a, timestamp(a).getHours(body.s) == 77)",
	"contains in a loop":      "body.l.exists(a, body.s.contains('abababababababababababababababababX'))",
	"in, in a loop":           "body.l.exists(a, -1 in body.l)",
	"compare lists in a loop": "body.l.exists(a, body.l != body.l)",
	"compare texts in a loop": "body.l.exists(a, body.s != body.s)",
	"compare all in a loop":   "body.l.exists(a, body != body)",
	"bytes in a loop":         "body.l.exists(a, bytes(body.s) != bytes(body.s))",
	"size in a loop":          "body.l.exists(a, size(body.s) == 0)",
	"time zone in a loop":     "body.l.exists(a, timestamp(a).getHours('Europe/Berlin') == 77)",
	"bad time in a loop":      "body.l.exists(a, timestamp(body.s) == timestamp(0))",
	"bad number in a loop":    "body.l.exists(a, int(body.s) == 0)",
	"make maps":               "body.l.map(a, {'x': a}).size() > 0",
	"make lists":              "body.l.filter(x, x > 0).map(x, [x,x,x,x]).map(x, [x,x,x,x]).size() > 0",
	"index a list":            "body.l.map(x, body.l[x]).size() > 0",
	"replace":                 "body.s.replace('', body.s).size() > 0",
	"replace in a loop":       "body.l.exists(a, body.s.replace('b', 'c') == '')",
	"split":                   "body.s.split('').size() > 0",
	"split in a loop":         "body.l.exists(a, body.m.split('bab').size() == 0)",
	"join":                    "body.m.split('bab').join(body.s).size() > 0",
	"join in a loop":          "body.l.exists(a, body.l.map(x, 'x').join() == '')",
	"substring in a loop":     "body.l.exists(a, body.s.substring(500000) == '')",
	"indexOf in a loop":       "body.l.exists(a, body.s.indexOf('abababababababababababababaX') > 0)",
	"omit in a loop":          "body.l.exists(a, body.omit('s') == 5)",
	"omit of a list":          "body.l.exists(a, body.omit('l.x') == 5)",
	"omit of a wide object":   "body.l.exists(a, body.w.omit('n7') == 5)",
	"omit of a nested list":   grow("[[{'a':1}]]", ".map(x, [x,x,x,x])", 9, ".omit('a') == 5"),
	"omit in a chain":         "body.l.exists(a, body.w" + strings.Repeat(".omit('n7').omit('n8')", 20) + " == 5)",
	"lowerAscii in a loop":    "body.l.exists(a, body.s.lowerAscii() == '')",
}

// A limit ends each hostile expression. The rule fails then, so that no later rule takes
// its place, and the request has made little garbage beside the body's values.
func TestHostileExpressions(t *testing.T) { // not parallel: it measures the process's memory
	in := promise.WebhookInput{Body: hostileBody()}
	for name, text := range hostile {
		t.Run(name, func(t *testing.T) {
			p := compile(t, define(slices.Repeat([]promise.SourceRule{resolve(text+" && body.o.id == 0", "'x:1'")}, 20)...))
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			judged, err := p.Judge(t.Context(), in)
			runtime.ReadMemStats(&after)
			require.NoError(t, err)
			checkJudged(t, judged, name)
			require.NotEmpty(t, judged.Items[0].Reason)
			require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(256<<20))
		})
	}
}

// Rules that each cost less than the limit cost no more than the request's budget in all.
// The items after that fail, and the ones before it keep their judgments.
func TestBudget(t *testing.T) {
	t.Parallel()
	d := promise.SourceDefinition{KeyPrefix: "x:", Each: "body", Rules: []promise.SourceRule{
		{When: "body.exists(a, body.exists(b, a < b && a > b))", Then: "ignore"}, resolve("", "'x:' + string(item)"),
	}}
	judged := judge(t, d, "["+strings.TrimSuffix(strings.Repeat("1,", 300), ",")+"]")
	checkJudged(t, judged, "budget")
	require.Len(t, judged.Items, 300)
	failed := slices.IndexFunc(judged.Items, func(j promise.Judgment) bool { return j.Failed })
	require.Positive(t, failed, "the first items are within the budget")
	for _, j := range judged.Items[failed+1:] {
		require.True(t, j.Failed)
		require.Contains(t, j.Reason, "the rules cost too much for one request")
	}
}

// A request's values have a limit in all, too.
func TestMadeBytes(t *testing.T) {
	t.Parallel()
	d := promise.SourceDefinition{KeyPrefix: "x:", Each: "[0,1,2,3,4,5,6,7,8,9,10,11]", Rules: []promise.SourceRule{
		{Key: "'x:1'", Then: "resolve", Value: "[body, item]"},
	}}
	judged := judge(t, d, `"`+strings.Repeat("a", 2_000_000)+`"`)
	require.False(t, judged.Items[7].Failed)
	for _, j := range judged.Items[8:] {
		require.Equal(t, "rule 1, value: the values of the request have more than 16777216 bytes", j.Reason)
		require.Empty(t, j.Result.Value)
	}
}

// Work on a text or a value counts even if it is in vain, so that no item of many repeats
// it.
func TestItemsInVain(t *testing.T) { // not parallel: it measures the process's memory
	body := `{"s":"` + strings.Repeat("a", 1_100_000) + `","i":[` + strings.TrimSuffix(strings.Repeat("1,", 1000), ",") + `]}`
	for name, c := range map[string]struct {
		rule   promise.SourceRule
		reason string
	}{
		"values that are too long": {resolveWith("[body.s, body.s]"), "rule 1, value: the values of the request have more than 16777216 bytes"},
		"values that JSON lacks":   {resolveWith("[body, 1.0 / 0.0]"), "rule 1, value: the values of the request have more than 16777216 bytes"},
		"too many values":          {resolveWith("body"), "rule 1, value: the values of the request have more than 16777216 bytes"},
		"keys that are too long":   {resolve("", "body.s"), "rule 1, key: the rules cost too much for one request"},
	} {
		t.Run(name, func(t *testing.T) {
			p := compile(t, promise.SourceDefinition{KeyPrefix: "x:", Each: "body.i", Rules: []promise.SourceRule{c.rule}})
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			judged, err := p.Judge(t.Context(), promise.WebhookInput{Body: []byte(body)})
			runtime.ReadMemStats(&after)
			require.NoError(t, err)
			checkJudged(t, judged, name)
			require.Len(t, judged.Items, 1000)
			for _, j := range judged.Items[20:] {
				require.True(t, j.Failed)
				require.Equal(t, c.reason, j.Reason)
			}
			require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(128<<20))
		})
	}
}

// A limit that ends a condition fails the rule. It does not count as false: the next rule
// would apply.
func TestLimitInWhenFails(t *testing.T) {
	t.Parallel()
	j := judgeOne(t, define(resolve(hostile["three loops"], "'x:1'"), resolve("", "'x:2'")), string(hostileBody()))
	require.True(t, j.Failed)
	require.Equal(t, "1", j.Rule)
	require.Equal(t, "rule 1, when: the expression costs too much, or its values are too large", j.Reason)
}
