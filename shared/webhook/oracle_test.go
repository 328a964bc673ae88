package webhook_test

import (
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/slack-go/slack"
	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
	"github.com/stretchr/testify/require"
	stripe "github.com/stripe/stripe-go/v82/webhook"

	"github.com/flovyn/promises/shared/promise"
	"github.com/flovyn/promises/shared/webhook"
)

// published are requests with signatures that others made: the providers' documents and the tests of their libraries, or else openssl.
var published = []struct {
	name, preset, secret string
	header               map[string]string
	url, query, body     string
	at                   int64 // Unix seconds; 0: any time
}{
	{ // docs.github.com/en/webhooks/using-webhooks/validating-webhook-deliveries#testing-the-webhook-payload-validation
		name: "github", preset: "github", secret: "It's a Secret to Everybody", body: "Hello, World!",
		header: map[string]string{"x-hub-signature-256": "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"},
	},
	{ // docs.slack.dev/authentication/verifying-requests-from-slack
		name: "slack", preset: "slack", secret: "8f742231b10e8888abcd99yyyzzz85a5", at: 1531420618,
		header: map[string]string{
			"x-slack-signature":         "v0=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503",
			"x-slack-request-timestamp": "1531420618",
		},
		body: "token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow&channel_id=G8PSS9T3V&channel_name=foobar&" +
			"user_id=U2CERLKJA&user_name=roadrunner&command=%2Fwebhook-collect&text=&" +
			"response_url=https%3A%2F%2Fhooks.slack.com%2Fcommands%2FT1DC2JH3J%2F397700885554%2F96rGlfmibIGlgcZRskXaIFfN&" +
			"trigger_id=398738663015.47445629121.803a0bc887a14d10d2c447fce8b6703c",
	},
	{ // github.com/PaddleHQ/paddle-go-sdk, webhook_verifier_test.go
		name: "paddle", preset: "paddle", secret: "pdl_ntfset_01hsdn8d43dt7mezr1ef2jtbaw_hKkRiCGyyRhbFwIUuqiTBgI7gnWoV0Gr", at: 1710929255,
		header: map[string]string{"paddle-signature": "ts=1710929255;h1=6c05ef8fa83c44d751be6d259ec955ce5638e2c54095bf128e408e2fce1589c8"},
		body: `{"data":{"id":"pri_01hsdn96k2hxjzsq5yerecdj9j","name":null,"status":"active","quantity":{"maximum":999999,"minimum":1},` +
			`"tax_mode":"account_setting","product_id":"pro_01hsdn8qp7yydry3x1yeg6a9rv","unit_price":{"amount":"1000","currency_code":"USD"},` +
			`"custom_data":null,"description":"testing","import_meta":null,"trial_period":null,"billing_cycle":{"interval":"month","frequency":1},` +
			`"unit_price_overrides":[]},"event_id":"evt_01hsdn97563968dy0szkmgjwh3","event_type":"price.created",` +
			`"occurred_at":"2024-03-20T10:07:35.590857Z","notification_id":"ntf_01hsdn977e920kbgzt6r6c9rqc"}`,
	},
	{ // developer.squareup.com/docs/webhooks/step3validate
		name: "square", preset: "square", secret: "asdf1234", url: "https://example.com/webhook", body: `{"hello":"world"}`,
		header: map[string]string{"x-square-hmacsha256-signature": "2kRE5qRU2tR+tBGlDwMEw2avJ7QM4ikPYD/PJ3bd9Og="},
	},
	{ // github.com/sendgrid/sendgrid-go, helpers/eventwebhook/eventwebhook_test.go
		name: "sendgrid", preset: "sendgrid", at: 1588788367,
		secret: "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEEDr2LjtURuePQzplybdC+u4CwrqDqBaWjcMMsTbhdbcwHBcepxo7yAQGhHPTnlvFYPAZFceEu/1FwCM/QmGUhA==",
		header: map[string]string{
			"x-twilio-email-event-webhook-signature": "MEUCIQCtIHJeH93Y+qpYeWrySphQgpNGNr/U+UyUlBkU6n7RAwIgJTz2C+8a8xonZGi6BpSzoQsbVRamr2nlxFDWYNH2j/0=",
			"x-twilio-email-event-webhook-timestamp": "1588788367",
		},
		body: `{"category":"example_payload","event":"test_event","message_id":"message_id"}`,
	},
	{ // docs.svix.com/receiving/verifying-payloads/how-manual
		name: "svix", preset: "standard-webhooks", secret: "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", at: 1614265330, body: `{"test": 2432232314}`,
		header: map[string]string{
			"svix-id": "msg_p5jXN8AQM9LWM0D4loKWxJek", "svix-timestamp": "1614265330",
			"svix-signature": "v1,Ceo5qEr07ixe2NLpvHk3FH9bwy/WavXrAFQ/9tdO6mc= v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
		},
	},
	{ // openssl dgst -sha256 -hmac shpss_hush -binary | base64
		name: "shopify", preset: "shopify", secret: "shpss_hush", body: `{"id":820982911946154508,"email":"jon@example.com"}`,
		header: map[string]string{"x-shopify-hmac-sha256": "minWArgZa/Hsplvy6dlnaKNnlyvuW8Y2ovDcBlzZSE0="},
	},
	{ // openssl dgst -sha256 -hmac lin_wh_secret
		name: "linear", preset: "linear", secret: "lin_wh_secret", at: 1676056940, body: `{"action":"create","type":"Issue","webhookTimestamp":1676056940508}`,
		header: map[string]string{"linear-signature": "7f1b01e2282c7612f4ba310248a964ea16327e81ef037d2f5a0080bf80b4e551"},
	},
	{ // openssl dgst -sha256 -hmac Zm9yIGRvY3VzaWdu -binary | base64: the text of the secret is the key
		name: "docusign", preset: "docusign", secret: "Zm9yIGRvY3VzaWdu",
		body:   `{"event":"envelope-completed","retryCount":0,"data":{"envelopeId":"6d9a5b4b-7f3a-4a3e-9d3c-0a1b2c3d4e5f"}}`,
		header: map[string]string{"x-docusign-signature-1": "YQ==", "x-docusign-signature-2": "hEHZPYRwiwIypfNe+8B1Lmha6RSZ31xkb1XjNRqF/6c="},
	},
}

func TestPublishedSignatures(t *testing.T) {
	t.Parallel()
	for _, p := range published {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			at := now
			if p.at != 0 {
				at = time.Unix(p.at, 0)
			}
			r := promise.WebhookRequest{Header: p.header, URL: p.url, Query: p.query, Body: []byte(p.body)}
			require.NoError(t, webhook.CheckSecret(preset(p.preset), p.secret))
			_, err := webhook.Verify(preset(p.preset), []string{p.secret}, r, at)
			require.NoError(t, err)
			r.Body = append(r.Body, ' ')
			_, err = webhook.Verify(preset(p.preset), []string{p.secret}, r, at)
			require.Equal(t, webhook.NoMatch, err)
		})
	}
}

// Twilio's own cases: twilio.com/docs/usage/security, and client/request_validator_test.go of github.com/twilio/twilio-go.
func TestPublishedSignaturesOfTwilio(t *testing.T) {
	t.Parallel()
	const (
		form     = "Digits=1234&CallSid=CA1234567890ABCDE&To=%2B18005551212&Caller=%2B14158675309&From=%2B14158675309"
		noPort   = "RSOYDt4T1cUTdK1PDd93/VVr8B8="
		port443  = "kvajT1Ptam85bY51eRf/AJRuM3w="
		httpNone = "0ZXoZLH/DfblKGATFgpif+LLRf4="
		http1234 = "Zmvh+3yNM1Phv2jhDCwEM3q5ebU="
		json     = `{"property": "value", "boolean": true}`
		hash     = "bodySHA256=0a1ff7634d9ab3b95db5c9a2dfe9416e41502b283a80c7cf19632632f96e6620"
	)
	for _, c := range []struct {
		name, url, query, media, body, signature string
		want                                     webhook.Refusal
	}{
		{"a form", "https://mycompany.com/myapp.php", "foo=1&bar=2", "application/x-www-form-urlencoded", form, noPort, ""},
		{"the default port is signed", "https://mycompany.com/myapp.php", "foo=1&bar=2", "application/x-www-form-urlencoded", form, port443, ""},
		{"a port is not signed", "https://mycompany.com:1234/myapp.php", "foo=1&bar=2", "application/x-www-form-urlencoded", form, noPort, ""},
		{"http", "http://mycompany.com/myapp.php", "foo=1&bar=2", "application/x-www-form-urlencoded", form, httpNone, ""},
		{"http with a port", "http://mycompany.com:1234/myapp.php", "foo=1&bar=2", "application/x-www-form-urlencoded", form, http1234, ""},
		{"another port", "https://mycompany.com/myapp.php", "foo=1&bar=2", "application/x-www-form-urlencoded", form, http1234, webhook.NoMatch},
		{"another body", "https://mycompany.com/myapp.php", "foo=1&bar=2&" + hash, "application/json", json, "a9nBmqA0ju/hNViExpshrM61xv4=", ""},
		{"only the hash", "https://mycompany.com/myapp.php", hash, "application/json", json, "y77kIzt2vzLz71DgmJGsen2scGs=", ""},
		{"another hash", "https://mycompany.com/myapp.php", hash, "application/json", json + " ", "y77kIzt2vzLz71DgmJGsen2scGs=", webhook.NoMatch},
		{"the body left out, as if it were an empty form", "https://mycompany.com/myapp.php", hash, "application/x-www-form-urlencoded", "",
			"y77kIzt2vzLz71DgmJGsen2scGs=", webhook.NoMatch},
		{"no hash", "https://mycompany.com/myapp.php", "foo=1&bar=2", "application/json", json, noPort, webhook.Malformed},
		{"not a form", "https://mycompany.com/myapp.php", "foo=1&bar=2", "application/x-www-form-urlencoded", "Digits=%zz", noPort, webhook.Malformed},
		{"no type", "https://mycompany.com/myapp.php", "foo=1&bar=2", "", form, noPort, webhook.Malformed},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := promise.WebhookRequest{
				Header: map[string]string{"x-twilio-signature": c.signature, "content-type": c.media}, URL: c.url, Query: c.query, Body: []byte(c.body),
			}
			if c.want == "" {
				requireVerified(t, preset("twilio"), []string{"12345"}, r)
			} else {
				requireRefused(t, c.want, preset("twilio"), []string{"12345"}, r)
			}
		})
	}
}

// Stripe's library and Verify agree on each of these headers, but for two timestamps: the library takes the last one.
func TestStripeAgrees(t *testing.T) {
	t.Parallel()
	const secret = "whsec_of-stripe-and-more"
	body := []byte(`{"id":"evt_1","object":"event"}`)
	signed := stripe.GenerateTestSignedPayload(&stripe.UnsignedPayload{Payload: body, Secret: secret, Timestamp: now})
	valid := signed.Header
	sign := valid[strings.Index(valid, "v1="):]
	stamp := "t=" + strconv.FormatInt(now.Unix(), 10)
	for _, header := range []string{
		valid, sign + "," + stamp, valid + ",v0=abc", stamp + ",v1=00,v1=zz," + sign, stamp + ",v1=," + sign, stamp + "," + sign + ",x=",
		stamp, sign, "", "t=", "t=x," + sign, stamp + ",v0=" + sign[3:], stamp + "," + sign + ",", stamp + ",," + sign, stamp + "," + sign + "=",
		stamp + ";" + sign, "t=1," + sign, stamp + "," + sign[:len(sign)-2], stamp + "," + sign + "00", stamp + ",V1=" + sign[3:], valid + ",v1",
	} {
		want := stripe.ValidatePayloadIgnoringTolerance(body, header, secret)
		_, err := webhook.Verify(preset("stripe"), []string{secret}, promise.WebhookRequest{
			Header: map[string]string{"stripe-signature": header}, Body: body,
		}, now)
		require.Equal(t, want == nil, err == nil, "%s: %v, %v", header, want, err)
	}
	_, err := webhook.Verify(preset("stripe"), []string{secret}, promise.WebhookRequest{
		Header: map[string]string{"stripe-signature": "t=1," + valid}, Body: body,
	}, now)
	require.Equal(t, webhook.TwoTimestamps, err)
	require.NoError(t, stripe.ValidatePayloadIgnoringTolerance(body, "t=1,"+valid, secret))
}

// Slack's library takes the time from the clock, so this test does, too.
func TestSlackAgrees(t *testing.T) {
	t.Parallel()
	sender := senderOf(t, "slack")
	at := time.Now()
	valid := sender.request(at, sender.secrets[0])
	for _, r := range []promise.WebhookRequest{
		valid, sender.request(at, sender.secrets[1]), sender.request(at.Add(-time.Hour), sender.secrets[0]), sender.request(at.Add(time.Hour), sender.secrets[0]),
		sender.request(at.Add(-4*time.Minute), sender.secrets[0]), with(valid, "x-slack-signature", ""), with(valid, "x-slack-request-timestamp", ""),
		with(valid, "x-slack-request-timestamp", "1"), with(valid, "x-slack-request-timestamp", "x"), with(valid, "x-slack-signature", "v0="),
		with(valid, "x-slack-signature", strings.TrimPrefix(valid.Header["x-slack-signature"], "v0=")),
		with(valid, "x-slack-signature", valid.Header["x-slack-signature"]+"00"),
		with(valid, "x-slack-signature", "v1"+valid.Header["x-slack-signature"][2:]),
	} {
		header := http.Header{}
		for name, value := range r.Header {
			header.Set(name, value)
		}
		verifier, want := slack.NewSecretsVerifier(header, sender.secrets[0])
		if want == nil {
			_, err := verifier.Write(r.Body)
			require.NoError(t, err)
			want = verifier.Ensure()
		}
		_, err := webhook.Verify(sender.verifier, sender.secrets[:1], r, at)
		require.Equal(t, want == nil, err == nil, "%v: %v, %v", r.Header, want, err)
	}
}

func TestStandardWebhooksAgrees(t *testing.T) {
	t.Parallel()
	secret := whsec("a")
	library, err := standardwebhooks.NewWebhook(secret)
	require.NoError(t, err)
	body := []byte(`{"type":"invoice.paid"}`)
	sign, err := library.Sign("msg_1", now, body)
	require.NoError(t, err)
	stamp := strconv.FormatInt(now.Unix(), 10)
	for _, c := range []struct{ id, timestamp, signature string }{
		{"msg_1", stamp, sign}, {"msg_1", stamp, "v1,YQ== " + sign}, {"msg_1", stamp, sign + " v2,abc"}, {"msg_1", stamp, "v1a,YQ==  " + sign},
		{"msg_1", stamp, " " + sign + " "}, {"msg_1", stamp, "v1 " + sign}, {"msg_1", stamp, "x " + sign},
		{"msg_2", stamp, sign}, {"msg_1", "1", sign}, {"msg_1", "x", sign}, {"", stamp, sign}, {"msg_1", "", sign}, {"msg_1", stamp, ""},
		{"msg_1", stamp, "v1a" + sign[2:]}, {"msg_1", stamp, sign[:len(sign)-1]}, {"msg_1", stamp, sign[3:]}, {"msg_1", stamp, "V1" + sign[2:]},
	} {
		r := promise.WebhookRequest{
			Header: map[string]string{"webhook-id": c.id, "webhook-timestamp": c.timestamp, "webhook-signature": c.signature}, Body: body,
		}
		header := http.Header{}
		for name, value := range r.Header {
			header.Set(name, value)
		}
		want := library.VerifyIgnoringTimestamp(body, header)
		_, err := webhook.Verify(withTolerance(preset("standard-webhooks"), 0), []string{secret}, r, now)
		require.Equal(t, want == nil, err == nil, "%+v: %v, %v", c, want, err)
	}
}
