package webhook_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/promise"
	"github.com/flovyn/promises/shared/webhook"
)

// requireField requires a *promise.Error of the field whose detail names the field, and has none of the secret texts.
func requireField(t *testing.T, field string, err error, secrets ...string) {
	t.Helper()
	var e *promise.Error
	require.ErrorAs(t, err, &e)
	require.Equal(t, field, e.Field)
	require.Contains(t, []promise.Code{promise.CodeOutOfRange, promise.CodeMissingField}, e.Code)
	require.True(t, strings.HasSuffix(e.Detail, "."), e.Detail)
	for _, secret := range secrets {
		require.NotContains(t, err.Error(), secret)
	}
}

func hmacWith(change func(h *promise.HMACVerifier)) promise.SourceVerifier {
	h := promise.HMACVerifier{Algorithm: "sha256", Header: "x-signature", Encoding: "hex", Signed: "{timestamp}.{body}", TimestampHeader: "x-timestamp"}
	change(&h)
	return promise.SourceVerifier{HMAC: &h}
}

func TestCheckVerifierOfHMAC(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		field  string
		change func(h *promise.HMACVerifier)
	}{
		"as it is":     {"", func(*promise.HMACVerifier) {}},
		"no timestamp": {"", func(h *promise.HMACVerifier) { h.Signed, h.TimestampHeader = "{body}", "" }},
		"everything": {"", func(h *promise.HMACVerifier) {
			h.Signed, h.Prefix = "v0: {url}~{timestamp}:{body}:{body}", "HMAC sha256="
		}},
		"a wide tolerance":              {"", func(h *promise.HMACVerifier) { h.ToleranceSeconds = seconds(86400) }},
		"any time":                      {"", func(h *promise.HMACVerifier) { h.ToleranceSeconds = seconds(0) }},
		"no algorithm":                  {"algorithm", func(h *promise.HMACVerifier) { h.Algorithm = "" }},
		"another algorithm":             {"algorithm", func(h *promise.HMACVerifier) { h.Algorithm = "ecdsa" }},
		"none":                          {"algorithm", func(h *promise.HMACVerifier) { h.Algorithm = "none" }},
		"no header":                     {"header", func(h *promise.HMACVerifier) { h.Header = "" }},
		"a header in upper case":        {"header", func(h *promise.HMACVerifier) { h.Header = "X-Signature" }},
		"no token":                      {"header", func(h *promise.HMACVerifier) { h.Header = "x signature" }},
		"a long header":                 {"header", func(h *promise.HMACVerifier) { h.Header = strings.Repeat("x", 101) }},
		"a long prefix":                 {"prefix", func(h *promise.HMACVerifier) { h.Prefix = strings.Repeat("x", 65) }},
		"a prefix with a line":          {"prefix", func(h *promise.HMACVerifier) { h.Prefix = "a\nb" }},
		"another encoding":              {"encoding", func(h *promise.HMACVerifier) { h.Encoding = "base32" }},
		"no encoding":                   {"encoding", func(h *promise.HMACVerifier) { h.Encoding = "" }},
		"nothing signed":                {"signed", func(h *promise.HMACVerifier) { h.Signed = "" }},
		"the body is not signed":        {"signed", func(h *promise.HMACVerifier) { h.Signed = "{timestamp}" }},
		"an unknown field":              {"signed", func(h *promise.HMACVerifier) { h.Signed = "{id}.{timestamp}.{body}" }},
		"a form":                        {"signed", func(h *promise.HMACVerifier) { h.Signed = "{form}{body}{timestamp}" }},
		"a brace":                       {"signed", func(h *promise.HMACVerifier) { h.Signed = "{{body}.{timestamp}" }},
		"a closing brace":               {"signed", func(h *promise.HMACVerifier) { h.Signed = "{body}}.{timestamp}" }},
		"an open field":                 {"signed", func(h *promise.HMACVerifier) { h.Signed = "{body}.{timestamp}{url" }},
		"a long template":               {"signed", func(h *promise.HMACVerifier) { h.Signed = "{body}.{timestamp}" + strings.Repeat("x", 240) }},
		"a template in Cyrillic":        {"signed", func(h *promise.HMACVerifier) { h.Signed = "{body}.{timestamp}ж" }},
		"no timestamp header":           {"timestampHeader", func(h *promise.HMACVerifier) { h.TimestampHeader = "" }},
		"an unsigned timestamp":         {"timestampHeader", func(h *promise.HMACVerifier) { h.Signed = "{body}" }},
		"a timestamp header with space": {"timestampHeader", func(h *promise.HMACVerifier) { h.TimestampHeader = "x timestamp" }},
		"one header for both":           {"timestampHeader", func(h *promise.HMACVerifier) { h.TimestampHeader = "x-signature" }},
		"a negative tolerance":          {"toleranceSeconds", func(h *promise.HMACVerifier) { h.ToleranceSeconds = seconds(-1) }},
		"more than a day":               {"toleranceSeconds", func(h *promise.HMACVerifier) { h.ToleranceSeconds = seconds(86401) }},
		"a tolerance of nothing": {"toleranceSeconds", func(h *promise.HMACVerifier) {
			h.Signed, h.TimestampHeader, h.ToleranceSeconds = "{body}", "", seconds(300)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := webhook.CheckVerifier(hmacWith(c.change), "")
			if c.field == "" {
				require.NoError(t, err)
				return
			}
			requireField(t, "verifier.hmac."+c.field, err)
		})
	}
}

func TestCheckVerifier(t *testing.T) {
	t.Parallel()
	bearer, user := &struct{}{}, func(user string) promise.SourceVerifier {
		return promise.SourceVerifier{Basic: &promise.BasicUser{User: user}}
	}
	tolerant := func(name string, n int) promise.SourceVerifier {
		return promise.SourceVerifier{Preset: name, ToleranceSeconds: seconds(n)}
	}
	for name, c := range map[string]struct {
		field string
		v     promise.SourceVerifier
	}{
		"nothing":                {"verifier", promise.SourceVerifier{}},
		"only a tolerance":       {"verifier", promise.SourceVerifier{ToleranceSeconds: seconds(300)}},
		"two":                    {"verifier", promise.SourceVerifier{Preset: "stripe", Bearer: bearer}},
		"all":                    {"verifier", promise.SourceVerifier{Preset: "stripe", Bearer: bearer, Basic: &promise.BasicUser{User: "u"}, HMAC: &promise.HMACVerifier{}}},
		"unknown":                {"verifier.preset", preset("Stripe")},
		"any time":               {"", tolerant("stripe", 0)},
		"in the body":            {"", tolerant("linear", 60)},
		"of its own":             {"", tolerant("sendgrid", 300)},
		"a day":                  {"", tolerant("standard-webhooks", 86400)},
		"negative":               {"verifier.toleranceSeconds", tolerant("stripe", -1)},
		"more than a day":        {"verifier.toleranceSeconds", tolerant("stripe", 86401)},
		"github has none":        {"verifier.toleranceSeconds", tolerant("github", 300)},
		"gitlab has none":        {"verifier.toleranceSeconds", tolerant("gitlab", 0)},
		"bearer has none":        {"verifier.toleranceSeconds", promise.SourceVerifier{Bearer: bearer, ToleranceSeconds: seconds(1)}},
		"hmac has its own":       {"verifier.toleranceSeconds", promise.SourceVerifier{HMAC: &promise.HMACVerifier{}, ToleranceSeconds: seconds(1)}},
		"a user":                 {"", user("acme-1")},
		"no user":                {"verifier.basic.user", user("")},
		"a colon":                {"verifier.basic.user", user("a:b")},
		"a long user":            {"verifier.basic.user", user(strings.Repeat("u", 256))},
		"a user with a new line": {"verifier.basic.user", user("a\n")},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := webhook.CheckVerifier(c.v, "")
			if c.field == "" {
				require.NoError(t, err)
				return
			}
			requireField(t, c.field, err)
		})
	}
	t.Run("an unknown preset lists the names", func(t *testing.T) {
		t.Parallel()
		detail := promise.AsError(webhook.CheckVerifier(preset("strype"), "")).Detail
		for _, name := range webhook.Presets() {
			require.Contains(t, detail, name)
		}
	})
}

func TestCheckVerifierOfAURL(t *testing.T) {
	t.Parallel()
	signsURL := hmacWith(func(h *promise.HMACVerifier) { h.Signed, h.TimestampHeader = "{url}{body}", "" })
	for _, v := range []promise.SourceVerifier{preset("square"), preset("twilio"), signsURL} {
		for _, address := range []string{
			"", "https://hooks.example.com/square", "https://hooks.example.com", "https://hooks.example.com:8443/a%20b", "https://[2001:db8::1]/x",
			"http://localhost:3000/x", "http://127.0.0.1:3000/x", "http://[::1]/x",
		} {
			require.NoError(t, webhook.CheckVerifier(v, address), address)
		}
		for _, address := range []string{
			"hooks.example.com/x", "/x", "http://hooks.example.com/x", "ftp://hooks.example.com/x", "https://", "https:///x", "https:hooks.example.com", "https://:443/x",
			"https://user@hooks.example.com/x", "https://user:password@hooks.example.com/x", "https://hooks.example.com/x#part", "https://hooks.example.com/x#",
			"https://hooks.example.com/x?a=b", "https://hooks.example.com/x?", "https://hooks.example.com/a b", "https://hooks.example.com/é", "https://hooks.example.com/%zz",
			"https://hooks.example.com/\n", "http://localhost.example.com/x", "http://10.0.0.1/x", "https://hooks.example.com/" + strings.Repeat("x", 2048),
		} {
			requireField(t, "url", webhook.CheckVerifier(v, address))
		}
	}
	for _, v := range []promise.SourceVerifier{preset("stripe"), preset("standard-webhooks"), {Bearer: &struct{}{}}, hmacWith(func(*promise.HMACVerifier) {})} {
		require.NoError(t, webhook.CheckVerifier(v, ""))
		requireField(t, "url", webhook.CheckVerifier(v, "https://hooks.example.com/x"))
	}
}

// publicKeyOf returns the text of a public key as SendGrid shows it.
func publicKeyOf(t *testing.T, curve elliptic.Curve) string {
	t.Helper()
	private, err := ecdsa.GenerateKey(curve, rand.Reader)
	require.NoError(t, err)
	der, err := x509.MarshalPKIXPublicKey(private.Public())
	require.NoError(t, err)
	return base64.StdEncoding.EncodeToString(der)
}

func TestCheckSecret(t *testing.T) {
	t.Parallel()
	bearer, basic, signed := promise.SourceVerifier{Bearer: &struct{}{}}, promise.SourceVerifier{Basic: &promise.BasicUser{User: "acme"}}, hmacWith(func(*promise.HMACVerifier) {})
	long := strings.Repeat("s", 512)
	for _, c := range []struct {
		v        promise.SourceVerifier
		accepted []string
		refused  []string
	}{
		{preset("github"), []string{"8 bytes.", long, "with a space", "mit Umlaut: ä"}, []string{"", "7 bytes", long + "s", " leading", "trailing\n", "a\x00aaaaaaa", "\xff\xfe\xfd aaaaa"}},
		{preset("stripe"), []string{"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"}, []string{"sk_live_51H8secretsecret", "whsec_", "whsec_a", "WHSEC_aaaaaaaaaaaa"}},
		{preset("gitlab"), []string{"glsecret", long}, []string{"has a space", "has-ümlaut", "whsec_" + base64.StdEncoding.EncodeToString([]byte(long[:32]))}},
		{preset("twilio"), []string{"0123456789abcdef0123456789abcdef"}, []string{"12345"}},
		{bearer, []string{"a,b=c~d+e/f"}, []string{"has a space", "tab\tinside", "has-ümlaut", "short"}},
		{basic, []string{"pass: wörd with spaces", long}, []string{"short", long + "s", "pass\rword"}},
		{signed, []string{"any text is a key"}, []string{"short", publicKeyOf(t, elliptic.P256()), "whpk_" + base64.StdEncoding.EncodeToString([]byte(long[:32]))}},
		{
			preset("standard-webhooks"),
			[]string{whsec("a"), "whsec_" + base64.StdEncoding.EncodeToString([]byte("8 bytes.")), "whpk_" + base64.StdEncoding.EncodeToString([]byte(long[:32]))},
			[]string{
				"", "whsec_", "whpk_", base64.StdEncoding.EncodeToString([]byte(long[:32])), "v1," + whsec("a"), whsec("a") + "\n ", "whsec_!!!!!!!!!!!!",
				"whsec_" + base64.StdEncoding.EncodeToString([]byte("7 bytes")), "whsec_" + base64.StdEncoding.EncodeToString([]byte(long+"s")),
				"whpk_" + base64.StdEncoding.EncodeToString([]byte(long[:31])), "whpk_" + base64.StdEncoding.EncodeToString([]byte(long[:33])),
				"whsk_" + base64.StdEncoding.EncodeToString([]byte(long[:64])),
			},
		},
		{
			preset("sendgrid"), []string{publicKeyOf(t, elliptic.P256())},
			[]string{publicKeyOf(t, elliptic.P384()), "MFkw", "not base64 at all", "-----BEGIN PUBLIC KEY-----", strings.ToLower(publicKeyOf(t, elliptic.P256()))},
		},
	} {
		for _, secret := range c.accepted {
			require.NoError(t, webhook.CheckSecret(c.v, secret), secret)
		}
		requireField(t, "secret", webhook.CheckSecret(c.v, ""))
		for _, secret := range c.refused {
			if len(secret) < 7 { // a short text may be a word of the message
				requireField(t, "secret", webhook.CheckSecret(c.v, secret))
			} else {
				requireField(t, "secret", webhook.CheckSecret(c.v, secret), secret)
			}
		}
	}
	requireField(t, "verifier", webhook.CheckSecret(promise.SourceVerifier{}, long))
	require.ErrorContains(t, webhook.CheckSecret(preset("standard-webhooks"), "whsk_"+long), "private key")
	require.ErrorContains(t, webhook.CheckSecret(preset("gitlab"), whsec("a")), "standard-webhooks")
}

func TestNewSecret(t *testing.T) {
	t.Parallel()
	form := regexp.MustCompile(`^[0-9a-f]{64}$`)
	for _, s := range senders {
		secret := webhook.NewSecret(s.verifier)
		p, _ := webhook.Preset(s.verifier.Preset)
		if s.verifier.Preset != "" && !p.Generates {
			require.Empty(t, secret, s.name)
			continue
		}
		require.Regexp(t, form, secret, s.name)
		require.NotEqual(t, secret, webhook.NewSecret(s.verifier))
		require.NoError(t, webhook.CheckSecret(s.verifier, secret))
		requireVerified(t, s.verifier, []string{secret}, s.request(now, secret))
	}
	require.Empty(t, webhook.NewSecret(promise.SourceVerifier{}))
	for _, name := range []string{"github", "gitlab"} {
		require.NotEmpty(t, webhook.NewSecret(preset(name)))
	}
}
