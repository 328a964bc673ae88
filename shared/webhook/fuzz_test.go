package webhook_test

import (
	"crypto/sha256"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/promise"
	"github.com/flovyn/promises/shared/webhook"
)

// FuzzVerify changes a valid request in any way. Verify must not panic, and must change nothing. If it accepts the request, a header has
// a signature that the sender makes of this request.
func FuzzVerify(f *testing.F) {
	for i, s := range senders {
		r := s.request(now, s.secrets[0])
		for _, which := range []byte{0, 1, 2} {
			f.Add(uint8(i), which, r.Header[s.headers[int(which)%len(s.headers)]], r.Query, r.Body, r.Header["content-type"])
		}
		f.Add(uint8(i), byte(0), r.Header[s.headers[0]]+","+r.Header[s.headers[0]], "bodySHA256=00", []byte("a=1&a=2&b"), "text/plain")
		f.Add(uint8(i), byte(1), "1,2", "%zz;", []byte{}, ";")
	}
	f.Fuzz(func(t *testing.T, at, which uint8, value, query string, body []byte, media string) {
		s := senders[int(at)%len(senders)]
		r := s.request(now, s.secrets[0])
		name := s.headers[int(which)%len(s.headers)]
		for _, changed := range []promise.WebhookRequest{
			with(r, name, value),
			{Header: with(r, "content-type", media).Header, Query: query, Body: body, URL: address},
			{Header: with(with(r, name, value), "content-type", media).Header, Query: query, Body: body, URL: value},
		} {
			before := clone(changed)
			got, err := webhook.Verify(s.verifier, s.secrets[:], changed, now)
			require.Equal(t, before, changed)
			if err != nil {
				require.IsType(t, webhook.NoMatch, err)
				require.Zero(t, got)
				continue
			}
			s.requireSigned(t, changed, got)
		}
	})
}

// requireSigned requires that a header has a signature of the request, and that the digest is that of the signed text.
func (s sender) requireSigned(t *testing.T, r promise.WebhookRequest, got promise.Verification) {
	t.Helper()
	texts := []string{s.signed(r)}
	if s.verifier.Preset == "twilio" {
		other := r
		other.URL = strings.Replace(r.URL, "example.com", "example.com:443", 1)
		texts = append(texts, s.signed(other))
	}
	var all []string
	for name, value := range r.Header {
		if strings.HasPrefix(name, strings.TrimSuffix(s.headers[0], "1")) {
			all = append(all, value)
		}
	}
	for _, text := range texts {
		for _, secret := range s.secrets {
			if s.isIn(strings.Join(all, " "), secret, text) {
				require.Equal(t, sha256.Sum256([]byte(text)), got.Digest)
				return
			}
		}
	}
	t.Fatalf("no sender made %q", r.Header)
}

// isIn reports whether the header has a signature of the text.
func (s sender) isIn(header, secret, text string) bool {
	if s.valid != nil {
		for part := range strings.FieldsSeq(header) {
			if s.valid(secret, text, part) {
				return true
			}
		}
		return false
	}
	sign := s.sign(secret, text)
	if strings.Trim(sign, "0123456789abcdef") == "" { // hexadecimal digits have no case
		header = strings.ToLower(header)
	}
	_, token, found := strings.Cut(sign, " ") // a credential: more than one space may follow its scheme
	return strings.Contains(header, sign) || found && strings.HasSuffix(header, " "+token)
}

// FuzzHandshake parses any body.
func FuzzHandshake(f *testing.F) {
	f.Add([]byte(`{"type":"url_verification","challenge":"a"}`), "ping")
	f.Add([]byte(`[]`), "")
	f.Fuzz(func(t *testing.T, body []byte, event string) {
		for _, h := range []promise.Handshake{promise.HandshakeNone, promise.HandshakeSlack, promise.HandshakeGit} {
			_, answer, ok := webhook.Answer(h, promise.WebhookRequest{Header: map[string]string{"x-github-event": event}}, body)
			require.Equal(t, ok, len(answer) > 0)
			require.LessOrEqual(t, len(answer), 1024)
		}
	})
}

// FuzzCheck checks any verifier and any secret. Verify accepts nothing by a source that the checks refuse, and panics for none that they
// accept.
func FuzzCheck(f *testing.F) {
	f.Add("stripe", "sha256", "x-signature", "sha256=", "hex", "{timestamp}.{body}", "x-timestamp", "https://example.com/", "whsec_secret", 300)
	f.Add("", "sha1", "x", "", "base64", "{url}{body}", "", "http://localhost", "some secret", 0)
	f.Add("standard-webhooks", "", "", "", "", "", "", "", whsec("a"), 0)
	f.Add("sendgrid", "", "", "", "", "", "", "", senderOf(f, "sendgrid").secrets[0], 0)
	f.Fuzz(func(t *testing.T, name, algorithm, header, prefix, encoding, signed, timestamp, url, secret string, tolerance int) {
		h := promise.HMACVerifier{
			Algorithm: algorithm, Header: header, Prefix: prefix, Encoding: encoding, Signed: signed, TimestampHeader: timestamp, ToleranceSeconds: &tolerance,
		}
		for _, v := range []promise.SourceVerifier{
			{Preset: name}, {Preset: name, ToleranceSeconds: &tolerance}, {HMAC: &h}, {Basic: &promise.BasicUser{User: header}}, {Bearer: &struct{}{}},
		} {
			invalid, badSecret := webhook.CheckVerifier(v, ""), webhook.CheckSecret(v, secret)
			if url != "" && webhook.CheckVerifier(v, url) == nil {
				require.NoError(t, invalid)
			}
			r := promise.WebhookRequest{Header: map[string]string{header: prefix + secret, timestamp: "1795768200"}, Body: []byte(signed), URL: url}
			_, err := webhook.Verify(v, []string{secret}, r, now)
			if invalid != nil {
				require.Equal(t, webhook.NoSecret, err)
				require.Error(t, badSecret)
				require.Empty(t, webhook.NewSecret(v))
			}
		}
	})
}
