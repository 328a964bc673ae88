package rule_test

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/promise"
	"github.com/flovyn/promises/shared/webhook/rule"
)

func BenchmarkCompile(b *testing.B) {
	compile(b, define(resolve("body.a", "'x:1'"))) // builds the environment
	d := promise.SourceDefinition{KeyPrefix: "stripe:", EventID: "body.id", Rules: []promise.SourceRule{{Preset: "stripe.charge"}}}
	b.ReportAllocs()
	for b.Loop() {
		_, err := rule.Compile(d)
		require.NoError(b, err)
	}
}

// BenchmarkJudge judges bodies of three sizes, and one with many items.
func BenchmarkJudge(b *testing.B) {
	d := promise.SourceDefinition{KeyPrefix: "stripe:", EventID: "body.id", Rules: []promise.SourceRule{{Preset: "stripe.charge"}}}
	body := func(lines int) []byte {
		event := map[string]any{"id": "evt_1", "type": "charge.failed", "data": map[string]any{
			"object": map[string]any{"id": "ch_1", "captured": false, "failure_message": "Your card was declined."},
		}}
		for i := range lines {
			event[fmt.Sprint("field", i)] = map[string]any{"number": i, "text": "some text of a usual length", "list": []any{1, nil, true}}
		}
		text, err := json.Marshal(event)
		require.NoError(b, err)
		return text
	}
	items := make([]any, 1000)
	for i := range items {
		items[i] = map[string]any{"id": i, "type": "done"}
	}
	list, err := json.Marshal(items)
	require.NoError(b, err)
	for _, c := range []struct {
		name       string
		definition promise.SourceDefinition
		body       []byte
	}{
		{"small", d, body(0)},
		{"8KB", d, body(90)},
		{"100KB", d, body(1150)},
		{"1000items", promise.SourceDefinition{KeyPrefix: "x:", Each: "body", EventID: "item.id", Rules: []promise.SourceRule{
			resolve("item.type == 'other'", "'x:1'"), resolve("item.type == 'done'", "'x:' + string(item.id)"),
		}}, list},
	} {
		p := compile(b, c.definition)
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(c.body)))
			for b.Loop() {
				_, err := p.Judge(b.Context(), promise.WebhookInput{Body: c.body})
				require.NoError(b, err)
			}
		})
	}
}
