package delivery_test

import (
	"bytes"
	"encoding/base64"
	"net/http"
	"strings"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/flovyn/promises/shared/delivery"
)

// The published vector of the Standard Webhooks libraries: libraries/go/webhook_test.go, TestWebhookSign.
const (
	vectorSecret    = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
	vectorID        = "msg_p5jXN8AQM9LWM0D4loKWxJek"
	vectorTimestamp = 1614265330
	vectorBody      = `{"test": 2432232314}`
	vectorSignature = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
)

func TestSignHeadersOfThePublishedVector(t *testing.T) {
	t.Parallel()
	headers, err := delivery.SignHeaders([]string{vectorSecret}, vectorID, time.Unix(vectorTimestamp, 999), []byte(vectorBody))
	require.NoError(t, err)
	require.Equal(t, map[string]string{
		"webhook-id": vectorID, "webhook-timestamp": "1614265330", "webhook-signature": vectorSignature,
	}, headers)
}

// The Standard Webhooks library verifies each signature, with each active secret, and refuses any other body, id, time and secret.
func TestSignHeadersAreVerifiedByTheLibrary(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var secrets []string
		for range rapid.IntRange(1, 2).Draw(t, "secrets") {
			secrets = append(secrets, "whsec_"+base64.StdEncoding.EncodeToString(rapid.SliceOfN(rapid.Byte(), 24, 64).Draw(t, "secret")))
		}
		id := rapid.StringMatching(`[!-\-/-~]{1,64}`).Draw(t, "id")
		at := time.Unix(rapid.Int64Range(1, 1<<40).Draw(t, "at"), rapid.Int64Range(0, 999_999_999).Draw(t, "nanoseconds"))
		body := rapid.SliceOf(rapid.Byte()).Draw(t, "body")
		signed, err := delivery.SignHeaders(secrets, id, at, body)
		require.NoError(t, err)

		verify := func(secret string, body []byte, change func(http.Header)) error {
			headers := http.Header{}
			for name, value := range signed {
				headers.Set(name, value)
			}
			change(headers)
			oracle, err := standardwebhooks.NewWebhook(secret)
			require.NoError(t, err)
			return oracle.VerifyIgnoringTimestamp(body, headers)
		}
		for _, secret := range secrets {
			require.NoError(t, verify(secret, body, func(http.Header) {}))
			require.Error(t, verify(secret, append(bytes.Clone(body), ' '), func(http.Header) {}))
			require.Error(t, verify(secret, body, func(h http.Header) { h.Set("webhook-id", id+"x") }))
			require.Error(t, verify(secret, body, func(h http.Header) { h.Set("webhook-timestamp", "0") }))
		}
		require.Error(t, verify(delivery.NewSecret(), body, func(http.Header) {}))
	})
}

func TestSignHeadersRefuses(t *testing.T) {
	t.Parallel()
	encode := func(n int) string {
		return "whsec_" + base64.StdEncoding.EncodeToString(bytes.Repeat([]byte("k"), n))
	}
	good := encode(24)
	for _, c := range []struct {
		name    string
		secrets []string
		id      string
		detail  string
	}{
		{"no secret", nil, "msg_1", "not with 0"},
		{"three secrets", []string{good, good, good}, "msg_1", "not with 3"},
		{"no prefix", []string{strings.TrimPrefix(good, "whsec_")}, "msg_1", "secret 1 of 1"},
		{"another prefix", []string{"whsk_" + strings.TrimPrefix(good, "whsec_")}, "msg_1", "secret 1 of 1"},
		{"no base64", []string{good, "whsec_!" + good}, "msg_1", "secret 2 of 2"},
		{"base64 without padding", []string{strings.TrimRight(encode(32), "=")}, "msg_1", "secret 1 of 1"},
		{"23 bytes", []string{encode(23)}, "msg_1", "24 to 64 bytes"},
		{"65 bytes", []string{encode(65)}, "msg_1", "24 to 64 bytes"},
		{"no id", []string{good}, "", "id"},
		{"a period in the id", []string{good}, "msg.1", "id"},
		{"a line break in the id", []string{good}, "msg\n1", "id"},
		{"a space in the id", []string{good}, "msg 1", "id"},
		{"an id beyond ASCII", []string{good}, "mßg", "id"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			headers, err := delivery.SignHeaders(c.secrets, c.id, time.Unix(vectorTimestamp, 0), nil)
			require.ErrorContains(t, err, c.detail)
			require.Nil(t, headers)
			for _, secret := range c.secrets {
				require.NotContains(t, err.Error(), strings.TrimPrefix(secret, "whsec_"))
			}
		})
	}
}

func TestNewSecret(t *testing.T) {
	t.Parallel()
	secret := delivery.NewSecret()
	require.NotEqual(t, secret, delivery.NewSecret())
	encoded, found := strings.CutPrefix(secret, "whsec_")
	require.True(t, found)
	key, err := base64.StdEncoding.DecodeString(encoded)
	require.NoError(t, err)
	require.Len(t, key, 32)
	_, err = delivery.SignHeaders([]string{secret}, "msg_1", time.Now(), nil)
	require.NoError(t, err)
}
