package rule_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/promise"
	"github.com/flovyn/promises/shared/webhook/rule"
)

// define returns a definition whose keys begin with x: and with the rules.
func define(rules ...promise.SourceRule) promise.SourceDefinition {
	return promise.SourceDefinition{KeyPrefix: "x:", Rules: rules}
}

// resolve returns a rule that resolves the key by the whole body.
func resolve(when, key string) promise.SourceRule {
	return promise.SourceRule{When: when, Key: key, Then: "resolve"}
}

// resolveWith returns a rule that resolves x:1 by a value, whatever the request is.
func resolveWith(value string) promise.SourceRule {
	return promise.SourceRule{Key: "'x:1'", Then: "resolve", Value: value}
}

// rejectWith returns a rule that rejects x:1, whatever the request is.
func rejectWith(message string) promise.SourceRule {
	return promise.SourceRule{Key: "'x:1'", Then: "reject", Error: message}
}

func compile(t testing.TB, d promise.SourceDefinition) *rule.Program {
	t.Helper()
	p, err := rule.Compile(d)
	require.NoError(t, err)
	return p
}

// judge judges a request that has only a body.
func judge(t testing.TB, d promise.SourceDefinition, body string) promise.Judged {
	t.Helper()
	judged, err := compile(t, d).Judge(t.Context(), promise.WebhookInput{Body: []byte(body)})
	require.NoError(t, err)
	return judged
}

// judgeOne is judge for a definition without `each`.
func judgeOne(t testing.TB, d promise.SourceDefinition, body string) promise.Judgment {
	t.Helper()
	judged := judge(t, d, body)
	require.False(t, judged.Each)
	require.Len(t, judged.Items, 1)
	return judged.Items[0]
}

func pointer[T any](v T) *T { return &v }

// background is the context of a test that has none of its own.
var background = context.Background()
