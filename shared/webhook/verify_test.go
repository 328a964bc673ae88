package webhook_test

import (
	"crypto/elliptic"
	"crypto/sha256"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/promise"
	"github.com/flovyn/promises/shared/webhook"
)

// tolerance is the tolerance of every sender that has a timestamp, but for SendGrid.
const tolerance = 300 * time.Second

func TestPresetsAreTested(t *testing.T) {
	t.Parallel()
	for _, name := range webhook.Presets() {
		require.True(t, slices.ContainsFunc(senders, func(s sender) bool { return s.verifier.Preset == name }), name)
		p, ok := webhook.Preset(name)
		require.True(t, ok)
		require.Equal(t, name+":", p.KeyPrefix)
	}
	require.Empty(t, webhook.CredentialHeader(preset("nobody")))
	_, ok := webhook.Preset("nobody")
	require.False(t, ok)
}

func TestVerify(t *testing.T) {
	t.Parallel()
	for _, s := range senders {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			t.Run("valid", s.testValid)
			t.Run("secrets", s.testSecrets)
			t.Run("changed", s.testChanged)
			t.Run("headers", s.testHeaders)
			t.Run("several signatures", s.testSeveral)
			if s.unit != 0 {
				t.Run("time", s.testTime)
			}
		})
	}
}

func (s sender) isCredential() bool { return s.sign(s.secrets[0], "a") == s.sign(s.secrets[0], "b") }

func (s sender) testValid(t *testing.T) {
	require.NoError(t, webhook.CheckVerifier(s.verifier, ""))
	secret := webhook.CredentialHeader(s.verifier)
	require.Equal(t, s.isCredential(), secret != "")
	if s.isCredential() {
		require.Equal(t, s.headers[0], secret)
	}
	r := s.request(now, s.secrets[0])
	got := requireVerified(t, s.verifier, s.secrets[:1], r)
	require.Equal(t, sha256.Sum256([]byte(s.signed(r))), got.Digest)
	if len(s.headers) > 2 {
		require.Equal(t, eventID, got.SignedID)
	} else {
		require.Empty(t, got.SignedID)
	}
	require.Equal(t, s.request(now, s.secrets[0]).Body, r.Body, "Verify changes nothing")

	empty := s.request(now, s.secrets[0])
	empty.Query, empty.Body = "", nil
	if s.body == nil {
		empty.Header[s.headers[0]] = s.resign(empty)
		requireVerified(t, s.verifier, s.secrets[:1], empty)
	}
}

// resign returns the signature header for a request that was changed.
func (s sender) resign(r promise.WebhookRequest) string {
	write := s.write
	if write == nil {
		write = prefixed("", ",")
	}
	timestamp := s.timestamp(now)
	return write(timestamp, []string{s.sign(s.secrets[0], s.signed(r))})
}

func (s sender) testSecrets(t *testing.T) {
	for _, secret := range s.secrets {
		require.NoError(t, webhook.CheckSecret(s.verifier, secret))
	}
	r, second := s.request(now, s.secrets[0]), s.request(now, s.secrets[1])
	requireVerified(t, s.verifier, s.secrets[:], r)
	requireVerified(t, s.verifier, s.secrets[:], second)
	requireRefused(t, webhook.NoMatch, s.verifier, s.secrets[1:], r)
	requireRefused(t, webhook.NoMatch, s.verifier, s.secrets[:1], second)
	requireRefused(t, webhook.NoSecret, s.verifier, nil, r)
	requireRefused(t, webhook.NoMatch, s.verifier, []string{""}, r)
	v, none := webhook.Decoy()
	requireRefused(t, webhook.NoSecret, v, none, r)
	requireRefused(t, webhook.NoSecret, v, s.secrets[:], r)
}

func (s sender) testChanged(t *testing.T) {
	r := s.request(now, s.secrets[0])
	valid := requireVerified(t, s.verifier, s.secrets[:], r)
	for i := range r.Body {
		changed := clone(r)
		changed.Body[i] ^= 1
		got, err := webhook.Verify(s.verifier, s.secrets[:], changed, now)
		if s.isCredential() {
			require.NoError(t, err)
			require.NotEqual(t, valid.Digest, got.Digest, "byte %d", i)
			continue
		}
		require.IsType(t, webhook.NoMatch, err)
	}
	for _, other := range []string{"", "from=tesu", someQuery + "&more=1"} {
		changed := clone(r)
		changed.Query = other
		if signed := s.signed(changed); signed == s.signed(r) {
			require.Equal(t, valid, requireVerified(t, s.verifier, s.secrets[:], changed))
		} else if s.isCredential() {
			require.NotEqual(t, valid, requireVerified(t, s.verifier, s.secrets[:], changed))
		} else {
			requireRefused(t, webhook.NoMatch, s.verifier, s.secrets[:], changed)
		}
	}
	changed := clone(r)
	changed.URL += "x"
	if s.signed(changed) == s.signed(r) {
		requireVerified(t, s.verifier, s.secrets[:], changed)
	} else {
		requireRefused(t, webhook.NoMatch, s.verifier, s.secrets[:], changed)
	}
}

func (s sender) testHeaders(t *testing.T) {
	r := s.request(now, s.secrets[0])
	missing := []webhook.Refusal{webhook.MissingSignature, webhook.MissingTimestamp, webhook.MissingID}
	for i, name := range s.headers {
		requireRefused(t, missing[i], s.verifier, s.secrets[:], with(r, name, ""))
		requireRefused(t, webhook.MissingSignature, s.verifier, s.secrets[:], promise.WebhookRequest{Body: r.Body})

		value := r.Header[name]
		for _, doubled := range []string{value + "," + value, value + ", " + value} {
			_, err := webhook.Verify(s.verifier, s.secrets[:], with(r, name, doubled), now)
			require.IsType(t, webhook.NoMatch, err, "%s: %s", name, doubled)
		}

		// API Gateway and the local runner give the names in lower case, and the package asks for these.
		mixed := with(with(r, name, ""), http.CanonicalHeaderKey(name), value)
		requireRefused(t, missing[i], s.verifier, s.secrets[:], mixed)
		for _, garbage := range []string{" ", "=", ",", ";", "v1,", "sha256=", "Bearer ", strings.Repeat("9", 40), strings.Repeat("v1,YQ== ", 40), "\xff\x00"} {
			_, err := webhook.Verify(s.verifier, s.secrets[:], with(r, name, garbage), now)
			require.IsType(t, webhook.NoMatch, err, "%s: %q", name, garbage)
		}
	}
}

func (s sender) testSeveral(t *testing.T) {
	one, second := s.request(now, s.secrets[0]), s.request(now, s.secrets[1])
	both := s.request(now, s.secrets[1], s.secrets[0])
	switch {
	case s.many:
		for _, secret := range s.secrets {
			requireVerified(t, s.verifier, []string{secret}, both)
		}
	case s.verifier.Preset == "docusign":
		for n, signature := range []string{second.Header[s.headers[0]], one.Header[s.headers[0]]} {
			both.Header["x-docusign-signature-"+string(rune('1'+n))] = signature
		}
		for _, secret := range s.secrets {
			requireVerified(t, s.verifier, []string{secret}, both)
		}
		requireVerified(t, s.verifier, s.secrets[:1], one)
	default:
		_, err := webhook.Verify(s.verifier, s.secrets[:], both, now)
		require.IsType(t, webhook.NoMatch, err)
	}
}

func (s sender) testTime(t *testing.T) {
	tooOld, future := s.request(now.Add(-tolerance-time.Second), s.secrets[0]), s.request(now.Add(tolerance+2*time.Second), s.secrets[0])
	v := s.verifier
	if v.Preset == "sendgrid" { // its documents name no tolerance
		requireVerified(t, v, s.secrets[:], tooOld)
		requireVerified(t, v, s.secrets[:], future)
		v.ToleranceSeconds = seconds(300)
	}
	requireVerified(t, v, s.secrets[:], s.request(now.Add(-tolerance+time.Second), s.secrets[0]))
	requireVerified(t, v, s.secrets[:], s.request(now.Add(tolerance), s.secrets[0]))
	requireRefused(t, webhook.TooOld, v, s.secrets[:], tooOld)
	requireRefused(t, webhook.FromFuture, v, s.secrets[:], future)

	anyTime := withTolerance(v, 0)
	requireVerified(t, anyTime, s.secrets[:], tooOld)
	requireVerified(t, anyTime, s.secrets[:], future)
	narrow := withTolerance(v, 60)
	requireRefused(t, webhook.TooOld, narrow, s.secrets[:], s.request(now.Add(-62*time.Second), s.secrets[0]))

	// A valid signature over another time refuses the request, whatever the tolerance is.
	if s.stamp != nil {
		timestamp, later := s.timestamp(now), s.timestamp(now.Add(time.Second))
		r := s.request(now, s.secrets[0])
		for _, name := range s.headers {
			r.Header[name] = strings.ReplaceAll(r.Header[name], timestamp, later)
		}
		requireRefused(t, webhook.NoMatch, anyTime, s.secrets[:], r)
		s.testTwoTimestamps(t, anyTime, timestamp)
	}
}

func (s sender) testTwoTimestamps(t *testing.T, v promise.SourceVerifier, timestamp string) {
	r := s.request(now, s.secrets[0])
	if len(s.headers) > 1 {
		name := s.headers[1]
		for _, two := range []string{timestamp + "," + timestamp, timestamp + ", 1", "1," + timestamp} {
			requireRefused(t, webhook.TwoTimestamps, v, s.secrets[:], with(r, name, two))
		}
		for _, bad := range []string{"+" + timestamp, "-1", "1.5", " " + timestamp, "1e9", strings.Repeat("1", 19), "١٢٣"} {
			requireRefused(t, webhook.Malformed, v, s.secrets[:], with(r, name, bad))
		}
		return
	}
	value := r.Header[s.headers[0]]
	for _, two := range []string{value + "," + value, strings.Replace(value, timestamp, "1", 1) + "," + value} {
		requireRefused(t, webhook.TwoTimestamps, v, s.secrets[:], with(r, s.headers[0], two))
	}
	requireRefused(t, webhook.Malformed, v, s.secrets[:], with(r, s.headers[0], strings.Replace(value, timestamp, "+"+timestamp, 1)))
	requireRefused(t, webhook.MissingTimestamp, v, s.secrets[:], with(r, s.headers[0], strings.ReplaceAll(value, "t", "x")))
}

// withTolerance returns the verifier with a tolerance of its own.
func withTolerance(v promise.SourceVerifier, tolerance int) promise.SourceVerifier {
	if v.HMAC != nil {
		h := *v.HMAC
		h.ToleranceSeconds = seconds(tolerance)
		v.HMAC = &h
		return v
	}
	v.ToleranceSeconds = seconds(tolerance)
	return v
}

// Linear's timestamp is a member of the signed body.
func TestATimestampInTheBody(t *testing.T) {
	t.Parallel()
	const secret = "lin_wh_secret"
	for body, want := range map[string]webhook.Refusal{
		`{"webhookTimestamp":1795768200500}`:                             "",
		` {"a":{"webhookTimestamp":1},"webhookTimestamp":1795768200500}`: "",
		`{"webhookTimestamp":1}`:                                         webhook.TooOld,
		`{"webhookTimestamp":9999999999999}`:                             webhook.FromFuture,
		`{"a":{"webhookTimestamp":1795768200500}}`:                       webhook.MissingTimestamp,
		`{"webhooktimestamp":1795768200500}`:                             webhook.MissingTimestamp,
		`{"webhookTimestamp":"1795768200500"}`:                           webhook.Malformed,
		`{"webhookTimestamp":1795768200500.5}`:                           webhook.Malformed,
		`{"webhookTimestamp":-1}`:                                        webhook.Malformed,
		`{"webhookTimestamp":null}`:                                      webhook.Malformed,
		`[1795768200500]`:                                                webhook.Malformed,
		`{"webhookTimestamp":1795768200500`:                              webhook.Malformed,
		``:                                                               webhook.Malformed,
	} {
		r := promise.WebhookRequest{Header: map[string]string{"linear-signature": hexMAC(secret, body)}, Body: []byte(body)}
		if want == "" {
			requireVerified(t, preset("linear"), []string{secret}, r)
		} else {
			requireRefused(t, want, preset("linear"), []string{secret}, r)
		}
	}
}

// A sender of both kinds of headers, as Svix, is verified by those that are complete.
func TestBothKindsOfStandardHeaders(t *testing.T) {
	t.Parallel()
	secrets := []string{whsec("a")}
	standard := senderOf(t, "standard-webhooks").request(now, secrets[0])
	svix := senderOf(t, "svix").request(now, secrets[0])
	both := clone(standard)
	maps.Copy(both.Header, svix.Header)
	for _, removed := range []string{"", "webhook-id", "webhook-timestamp", "webhook-signature", "svix-id", "svix-signature"} {
		require.Equal(t, eventID, requireVerified(t, preset("standard-webhooks"), secrets, with(both, removed, "")).SignedID)
	}
	requireRefused(t, webhook.MissingID, preset("standard-webhooks"), secrets, with(with(both, "webhook-id", ""), "svix-signature", ""))
	requireRefused(t, webhook.MissingTimestamp, preset("standard-webhooks"), secrets, with(with(both, "webhook-signature", ""), "svix-timestamp", ""))
}

// The periods of a signed text separate its parts, so no part may be moved into another.
func TestTheIDOfAMessageHasNoPeriod(t *testing.T) {
	t.Parallel()
	secret := whsec("a")
	signed := "msg_1." + "1795768200" + `.x.1795768200.{"ok":true}`
	r := promise.WebhookRequest{
		Header: map[string]string{
			"webhook-id": "msg_1.1795768200.x", "webhook-timestamp": "1795768200", "webhook-signature": signStandard(secret, signed),
		},
		Body: []byte(`{"ok":true}`),
	}
	requireRefused(t, webhook.Malformed, preset("standard-webhooks"), []string{secret}, r)
	r.Header["webhook-id"], r.Body = "msg_1", []byte(`x.1795768200.{"ok":true}`)
	requireVerified(t, preset("standard-webhooks"), []string{secret}, r)
}

// Signatures in upper-case digits are the same bytes.
func TestHexadecimalDigitsHaveNoCase(t *testing.T) {
	t.Parallel()
	const secret, body = "first of github", `{"zen":"Keep it logically awesome."}`
	r := promise.WebhookRequest{Header: map[string]string{"x-hub-signature-256": "sha256=" + strings.ToUpper(hexMAC(secret, body))}, Body: []byte(body)}
	requireVerified(t, preset("github"), []string{secret}, r)
}

// Verify refuses what CheckVerifier and CheckSecret refuse, so a definition that reached the database in another way opens nothing.
func TestVerifyRefusesAnInvalidSource(t *testing.T) {
	t.Parallel()
	unsigned := promise.HMACVerifier{Algorithm: "sha256", Header: "x-signature", Encoding: "hex", Signed: "constant"}
	r := promise.WebhookRequest{Header: map[string]string{"x-signature": hexMAC("some secret", "constant"), "authorization": "Bearer "}, Body: []byte("{}")}
	requireRefused(t, webhook.NoSecret, promise.SourceVerifier{HMAC: &unsigned}, []string{"some secret"}, r)
	requireRefused(t, webhook.NoSecret, preset("nobody"), []string{"some secret"}, r)
	requireRefused(t, webhook.NoSecret, promise.SourceVerifier{Preset: "github", Bearer: &struct{}{}}, []string{"some secret"}, r)
	requireRefused(t, webhook.Malformed, promise.SourceVerifier{Bearer: &struct{}{}}, []string{""}, r)
	public := publicKeyOf(t, elliptic.P256()) // the secret of a source that was one of sendgrid
	requireRefused(t, webhook.NoMatch, preset("github"), []string{public}, with(r, "x-hub-signature-256", "sha256="+hexMAC(public, "{}")))
	requireRefused(t, webhook.NoMatch, promise.SourceVerifier{Bearer: &struct{}{}}, []string{public}, with(r, "authorization", "Bearer "+public))
	requireRefused(t, webhook.NoMatch, preset("github"), []string{""}, with(r, "x-hub-signature-256", "sha256="+hexMAC("", "{}")))
	for _, secret := range []string{"", "whsec_", "whpk_", "whpk_AAAA", "plain text", "whsec_!"} {
		for _, signature := range []string{"v1," + base64MAC("", "id.1795768200.{}"), "v1a,YQ=="} {
			signed := promise.WebhookRequest{Body: r.Body, Header: map[string]string{
				"webhook-id": "id", "webhook-timestamp": "1795768200", "webhook-signature": signature,
			}}
			requireRefused(t, webhook.NoMatch, preset("standard-webhooks"), []string{secret}, signed)
		}
	}
}

// An unsigned request makes no more work than a signed one.
func TestSignaturesAreBounded(t *testing.T) {
	t.Parallel()
	stripe, standard := senderOf(t, "stripe"), senderOf(t, "standard-webhooks with public keys")
	for n, want := range map[int]webhook.Refusal{15: "", 16: webhook.Malformed} {
		r := stripe.request(now, stripe.secrets[0])
		r = with(r, "stripe-signature", r.Header["stripe-signature"]+strings.Repeat(",v1=00", n))
		other := standard.request(now, standard.secrets[0])
		other = with(other, "webhook-signature", other.Header["webhook-signature"]+strings.Repeat(" v1a,YQ==", n))
		if want == "" {
			requireVerified(t, stripe.verifier, stripe.secrets[:], r)
			requireVerified(t, standard.verifier, standard.secrets[:], other)
			continue
		}
		requireRefused(t, want, stripe.verifier, stripe.secrets[:], r)
		requireRefused(t, want, standard.verifier, standard.secrets[:], other)
	}
	docusign := senderOf(t, "docusign")
	r := docusign.request(now, docusign.secrets[0])
	last := r.Header["x-docusign-signature-1"]
	for n := 1; n < 100; n++ {
		r.Header["x-docusign-signature-"+strconv.Itoa(n)] = "YQ=="
	}
	requireVerified(t, docusign.verifier, docusign.secrets[:], with(r, "x-docusign-signature-100", last))
	requireRefused(t, webhook.NoMatch, docusign.verifier, docusign.secrets[:], with(with(r, "x-docusign-signature-100", "YQ=="), "x-docusign-signature-101", last))
	requireRefused(t, webhook.Malformed, docusign.verifier, docusign.secrets[:], with(r, "x-docusign-signature-100", "?"))
}

// The decoders of base64 skip line breaks, and may accept bits that belong to no byte. A signature has one text.
func TestASignatureHasOneText(t *testing.T) {
	t.Parallel()
	sender := senderOf(t, "shopify")
	r := sender.request(now, sender.secrets[0])
	text := r.Header[sender.headers[0]]
	last := text[len(text)-2]
	for _, other := range []string{text[:4] + "\n" + text[4:], text + "\r", strings.TrimRight(text, "="), text[:len(text)-2] + string(last+1) + "=", text + "="} {
		requireRefused(t, webhook.Malformed, sender.verifier, sender.secrets[:], with(r, sender.headers[0], other))
	}
}

// A form is read before its signature is checked, so its fields are bounded: the standard library reads 10,000.
func TestAFormIsBounded(t *testing.T) {
	t.Parallel()
	sender := senderOf(t, "twilio")
	r := sender.request(now, sender.secrets[0])
	r.Body = []byte(strings.Repeat("a&", 10_001))
	requireRefused(t, webhook.Malformed, sender.verifier, sender.secrets[:], r)
	r.Body = []byte(strings.Repeat("a=1&", 9_999))
	r.Header[sender.headers[0]] = sender.resign(r)
	requireVerified(t, sender.verifier, sender.secrets[:], r)
}

func TestCredentials(t *testing.T) {
	t.Parallel()
	bearer, basic := promise.SourceVerifier{Bearer: &struct{}{}}, promise.SourceVerifier{Basic: &promise.BasicUser{User: "acme"}}
	of := func(value string) promise.WebhookRequest {
		return promise.WebhookRequest{Header: map[string]string{"authorization": value}, Body: []byte("{}")}
	}
	secrets := []string{"first-of-bearer"}
	for _, value := range []string{"Bearer first-of-bearer", "bearer first-of-bearer", "BEARER   first-of-bearer"} {
		requireVerified(t, bearer, secrets, of(value))
	}
	for value, want := range map[string]webhook.Refusal{
		"first-of-bearer": webhook.Malformed, "Basic first-of-bearer": webhook.Malformed, "Bearer": webhook.Malformed, "Bearer ": webhook.Malformed,
		"Bearer first-of-beareR": webhook.NoMatch, "Bearer first-of-bearer ": webhook.NoMatch, "Bearer first-of-beare": webhook.NoMatch,
		"Bearer first-of-bearer,Bearer first-of-bearer": webhook.NoMatch,
	} {
		requireRefused(t, want, bearer, secrets, of(value))
	}
	for _, value := range []string{"Basic " + b64("acme:first-of-bearer"), "basic " + b64("acme:first-of-bearer")} {
		requireVerified(t, basic, secrets, of(value))
	}
	for _, pair := range []string{"acme:first-of-bearer ", "acme:", "acme", ":first-of-bearer", "Acme:first-of-bearer", "acmefirst-of-bearer", "acme::first-of-bearer"} {
		requireRefused(t, webhook.NoMatch, basic, secrets, of("Basic "+b64(pair)))
	}
	for _, value := range []string{"Basic", "Basic ", "Basic a", "Bearer " + b64("acme:first-of-bearer"), "Basic " + b64("acme:first-of-bearer") + "," + "Basic a"} {
		requireRefused(t, webhook.Malformed, basic, secrets, of(value))
	}
}

// A real server's header names are canonical. The gateway passes them on in lower case, as API Gateway does.
func TestARealRequest(t *testing.T) {
	t.Parallel()
	const secret, body = "first of github", `{"zen":"Approachable is better than simple."}`
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		request := promise.WebhookRequest{Header: map[string]string{}, Query: r.URL.RawQuery, Body: []byte(body)}
		for name, values := range r.Header {
			request.Header[strings.ToLower(name)] = strings.Join(values, ",")
		}
		if _, err := webhook.Verify(preset("github"), []string{secret}, request, now); err != nil {
			w.WriteHeader(http.StatusUnauthorized)
		}
	}))
	defer server.Close()
	for name, status := range map[string]int{
		"X-Hub-Signature-256": http.StatusOK, "x-hub-signature-256": http.StatusOK, "X-HUB-SIGNATURE-256": http.StatusOK,
		"X-Hub-Signature": http.StatusUnauthorized,
	} {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, server.URL, strings.NewReader(body))
		require.NoError(t, err)
		request.Header[name] = []string{"sha256=" + hexMAC(secret, body)}
		answer, err := http.DefaultClient.Do(request)
		require.NoError(t, err)
		require.NoError(t, answer.Body.Close())
		require.Equal(t, status, answer.StatusCode, name)
	}
}

// A refusal names neither a secret nor a part of the request.
func TestRefusalsAreAClosedSet(t *testing.T) {
	t.Parallel()
	for _, r := range []webhook.Refusal{
		webhook.NoSecret, webhook.MissingSignature, webhook.MissingTimestamp, webhook.MissingID, webhook.TwoTimestamps, webhook.Malformed,
		webhook.NoMatch, webhook.TooOld, webhook.FromFuture,
	} {
		require.Equal(t, string(r), r.Error())
		require.Less(t, len(r), promise.MaxReason)
	}
}
