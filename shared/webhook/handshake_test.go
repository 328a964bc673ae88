package webhook_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/promise"
	"github.com/flovyn/promises/shared/webhook"
)

func TestAnswerOfSlack(t *testing.T) {
	t.Parallel()
	// The body of docs.slack.dev/reference/events/url_verification.
	media, body, ok := webhook.Answer(promise.HandshakeSlack, promise.WebhookRequest{},
		[]byte(`{"token":"Jhj5dZrVaK7ZwHHjRyZWjbDl","challenge":"3eZbrw1aBm2rZgRNFdxV2595E9CY3gmdALWMmHkvFXO7tYXAYM8P","type":"url_verification"}`))
	require.True(t, ok)
	require.Equal(t, "text/plain", media)
	require.Equal(t, "3eZbrw1aBm2rZgRNFdxV2595E9CY3gmdALWMmHkvFXO7tYXAYM8P", string(body))

	for _, text := range []string{
		"", "null", "[]", `"url_verification"`, `{"type":"url_verification"}`, `{"type":"url_verification","challenge":""}`,
		`{"type":"url_verification","challenge":1}`, `{"type":"url_verification","challenge":["a"]}`, `{"type":"event_callback","challenge":"a"}`,
		`{"challenge":"a"}`, `{"type":["url_verification"],"challenge":"a"}`, `[{"type":"url_verification","challenge":"a"}]`,
		`{"type":"url_verification","challenge":"a"`, `{"type":"url_verification","challenge":"` + strings.Repeat("a", 1025) + `"}`,
		`{"type":"url_verification","challenge":"a"}` + strings.Repeat(" ", 4096),
	} {
		_, _, ok := webhook.Answer(promise.HandshakeSlack, promise.WebhookRequest{}, []byte(text))
		require.False(t, ok, text)
	}
}

func TestAnswerOfGitHub(t *testing.T) {
	t.Parallel()
	of := func(event string) promise.WebhookRequest {
		return promise.WebhookRequest{Header: map[string]string{"x-github-event": event}}
	}
	media, body, ok := webhook.Answer(promise.HandshakeGit, of("ping"), []byte(`{"zen":"Design for failure.","hook_id":1}`))
	require.True(t, ok)
	require.Equal(t, "application/json", media)
	require.JSONEq(t, `{"outcome":"ignored"}`, string(body))
	for _, event := range []string{"", "push", "Ping", "ping,ping"} {
		_, _, ok := webhook.Answer(promise.HandshakeGit, of(event), []byte("{}"))
		require.False(t, ok, event)
	}
	_, _, ok = webhook.Answer(promise.HandshakeNone, of("ping"), []byte(`{"type":"url_verification","challenge":"a"}`))
	require.False(t, ok)
	_, _, ok = webhook.Answer(promise.HandshakeSlack, of("ping"), []byte(`{}`))
	require.False(t, ok)
}
