package webhook_test

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"hash"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"sort"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/promise"
	"github.com/flovyn/promises/shared/webhook"
)

const (
	address   = "https://api.example.com/api/tenants/acme/webhooks/source-abcdefghijklmnop"
	eventID   = "msg_2KWPBgLlAfxdpx2AI54pPJ85f4W"
	someQuery = "from=test"
)

// now is the time of all requests that are in time.
var now = time.Date(2026, 11, 27, 8, 30, 0, 500_000_000, time.UTC)

// A sender signs requests as a provider does. It shares no code with the package: each sender composes the signed text by itself.
type sender struct {
	name     string
	verifier promise.SourceVerifier
	secrets  [2]string // what the source has; a public key for an asymmetric signature
	headers  []string  // that carry the signature, the timestamp and the id, in this order

	unit   time.Duration                                 // of the timestamp; 0: there is none
	body   func(timestamp string) []byte                 // nil: jsonBody
	media  string                                        // nil: application/json
	signed func(r promise.WebhookRequest) string         // the text that the sender signs, from the request with all its headers
	stamp  func(r promise.WebhookRequest) string         // the timestamp in a request; nil: there is none
	sign   func(secret, signed string) string            // the text of a signature
	valid  func(secret, signed, text string) bool        // nil: the text is the one that sign returns
	write  func(timestamp string, signs []string) string // the signature header; nil: the only signature
	many   bool                                          // a header, or numbered ones, may have more than one signature
}

func jsonBody(string) []byte { return []byte(`{"id":"evt_1","type":"charge.succeeded","amount":4200}`) }

func mac(h func() hash.Hash, key []byte, text string) []byte {
	m := hmac.New(h, key)
	m.Write([]byte(text))
	return m.Sum(nil)
}

func hexMAC(secret, signed string) string {
	return hex.EncodeToString(mac(sha256.New, []byte(secret), signed))
}

func base64MAC(secret, signed string) string {
	return base64.StdEncoding.EncodeToString(mac(sha256.New, []byte(secret), signed))
}

func b64(text string) string { return base64.StdEncoding.EncodeToString([]byte(text)) }

func bodyOnly(r promise.WebhookRequest) string { return string(r.Body) }

func header(name string) func(promise.WebhookRequest) string {
	return func(r promise.WebhookRequest) string { return r.Header[name] }
}

// find returns the first group of the pattern in a header.
func find(name, pattern string) func(promise.WebhookRequest) string {
	form := regexp.MustCompile(pattern)
	return func(r promise.WebhookRequest) string {
		if groups := form.FindStringSubmatch(r.Header[name]); groups != nil {
			return groups[1]
		}
		return ""
	}
}

func prefixed(prefix, separator string) func(string, []string) string {
	return func(_ string, signs []string) string { return prefix + strings.Join(signs, separator+prefix) }
}

// credentialOf returns the text that identifies a request without a signature.
func credentialOf(r promise.WebhookRequest) string { return r.Query + "\n" + string(r.Body) }

func fullURL(r promise.WebhookRequest) string {
	if r.Query == "" {
		return r.URL
	}
	return r.URL + "?" + r.Query
}

// twilioText is the text that Twilio signs of a form, by the steps of its documentation.
func twilioText(r promise.WebhookRequest) string {
	if strings.Contains(r.Query, "bodySHA256=") {
		return fullURL(r)
	}
	form, err := url.ParseQuery(string(r.Body))
	if err != nil {
		return ""
	}
	var lines []string
	for name := range form {
		lines = append(lines, name)
	}
	sort.Strings(lines)
	text := fullURL(r)
	for _, name := range lines {
		unique := map[string]bool{}
		for _, value := range form[name] {
			unique[value] = true
		}
		for _, value := range slices.Sorted(maps.Keys(unique)) {
			text += name + value
		}
	}
	return text
}

// The key pairs of the asymmetric senders, by the text of the public key.
var (
	ecdsaKeys   = map[string]*ecdsa.PrivateKey{}
	ed25519Keys = map[string]ed25519.PrivateKey{}
)

func newECDSA() string {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		panic(err)
	}
	text := base64.StdEncoding.EncodeToString(der)
	ecdsaKeys[text] = key
	return text
}

func newEd25519() string {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		panic(err)
	}
	text := "whpk_" + base64.StdEncoding.EncodeToString(public)
	ed25519Keys[text] = private
	return text
}

func signECDSA(secret, signed string) string {
	digest := sha256.Sum256([]byte(signed))
	signature, err := ecdsa.SignASN1(rand.Reader, ecdsaKeys[secret], digest[:])
	if err != nil {
		panic(err)
	}
	return base64.StdEncoding.EncodeToString(signature)
}

func validECDSA(secret, signed, text string) bool {
	digest := sha256.Sum256([]byte(signed))
	signature, err := base64.StdEncoding.DecodeString(text)
	return err == nil && ecdsa.VerifyASN1(&ecdsaKeys[secret].PublicKey, digest[:], signature)
}

func signStandard(secret, signed string) string {
	if private, ok := ed25519Keys[secret]; ok {
		return "v1a," + base64.StdEncoding.EncodeToString(ed25519.Sign(private, []byte(signed)))
	}
	key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(secret, "whsec_"))
	if err != nil {
		panic(err)
	}
	return "v1," + base64.StdEncoding.EncodeToString(mac(sha256.New, key, signed))
}

func whsec(letter string) string {
	return "whsec_" + base64.StdEncoding.EncodeToString([]byte(strings.Repeat(letter, 24)))
}

// standard returns a sender of Standard Webhooks whose headers begin with the prefix.
func standard(name, prefix string, secrets [2]string) sender {
	return sender{
		name: name, verifier: preset("standard-webhooks"), secrets: secrets,
		headers: []string{prefix + "signature", prefix + "timestamp", prefix + "id"}, unit: time.Second, stamp: header(prefix + "timestamp"),
		signed: func(r promise.WebhookRequest) string {
			return fmt.Sprintf("%s.%s.%s", r.Header[prefix+"id"], r.Header[prefix+"timestamp"], r.Body)
		},
		sign: signStandard, write: prefixed("", " "), many: true,
	}
}

func preset(name string) promise.SourceVerifier { return promise.SourceVerifier{Preset: name} }

func seconds(n int) *int { return &n }

// senders are all presets, and one of each generic verifier. The keys of asymmetric senders are made once.
var senders = slices.Concat(providers(), standards(), generics())

func providers() []sender {
	return []sender{
		{
			name: "stripe", verifier: preset("stripe"), secrets: [2]string{"whsec_first-of-stripe", "whsec_second-of-stripe"},
			headers: []string{"stripe-signature"}, unit: time.Second, stamp: find("stripe-signature", `(?:^|,)t=([0-9]+)`),
			signed: func(r promise.WebhookRequest) string {
				return find("stripe-signature", `(?:^|,)t=([0-9]+)`)(r) + "." + string(r.Body)
			},
			sign: hexMAC, many: true,
			write: func(timestamp string, signs []string) string {
				return "t=" + timestamp + ",v1=" + strings.Join(signs, ",v1=") + ",v0=abc"
			},
		},
		{
			name: "github", verifier: preset("github"), secrets: [2]string{"first of github", "second of github"},
			headers: []string{"x-hub-signature-256"}, signed: bodyOnly, sign: hexMAC, write: prefixed("sha256=", ","),
		},
		{
			name: "slack", verifier: preset("slack"), secrets: [2]string{"8f742231b10e8888abcd99yyyzzz85a5", "0f742231b10e8888abcd99yyyzzz85a5"},
			headers: []string{"x-slack-signature", "x-slack-request-timestamp"}, unit: time.Second, stamp: header("x-slack-request-timestamp"),
			signed: func(r promise.WebhookRequest) string {
				return "v0:" + r.Header["x-slack-request-timestamp"] + ":" + string(r.Body)
			},
			sign: hexMAC, write: prefixed("v0=", ","),
		},
		{
			name: "shopify", verifier: preset("shopify"), secrets: [2]string{"shpss_first", "shpss_second"},
			headers: []string{"x-shopify-hmac-sha256"}, signed: bodyOnly, sign: base64MAC,
		},
		{
			name: "gitlab", verifier: preset("gitlab"), secrets: [2]string{"first-of-gitlab", "second-of-gitlab"},
			headers: []string{"x-gitlab-token"}, signed: credentialOf, sign: func(secret, _ string) string { return secret },
		},
		{
			name: "linear", verifier: preset("linear"), secrets: [2]string{"lin_wh_first", "lin_wh_second"},
			headers: []string{"linear-signature"}, unit: time.Millisecond, signed: bodyOnly, sign: hexMAC,
			body: func(timestamp string) []byte {
				return []byte(`{"action":"create","type":"Issue","webhookTimestamp":` + timestamp + `,"webhookId":"w"}`)
			},
		},
		{
			name: "paddle", verifier: preset("paddle"), secrets: [2]string{"pdl_ntfset_first", "pdl_ntfset_second"},
			headers: []string{"paddle-signature"}, unit: time.Second, stamp: find("paddle-signature", `(?:^|[;,])ts=([0-9]+)`),
			signed: func(r promise.WebhookRequest) string {
				return find("paddle-signature", `(?:^|[;,])ts=([0-9]+)`)(r) + ":" + string(r.Body)
			},
			sign: hexMAC, many: true,
			write: func(timestamp string, signs []string) string {
				return "ts=" + timestamp + ";h1=" + strings.Join(signs, ";h1=")
			},
		},
		{
			name: "square", verifier: preset("square"), secrets: [2]string{"first-of-square", "second-of-square"},
			headers: []string{"x-square-hmacsha256-signature"}, sign: base64MAC,
			signed: func(r promise.WebhookRequest) string { return fullURL(r) + string(r.Body) },
		},
		{
			name: "twilio", verifier: preset("twilio"), secrets: [2]string{"first-of-twilio", "second-of-twilio"},
			headers: []string{"x-twilio-signature"}, media: "application/x-www-form-urlencoded; charset=UTF-8",
			body: func(string) []byte {
				return []byte("To=%2B18005551212&Digits=1234&Media=b&Media=a&Media=b&Body=caf%C3%A9+noir")
			},
			signed: twilioText,
			sign: func(secret, signed string) string {
				return base64.StdEncoding.EncodeToString(mac(sha1.New, []byte(secret), signed))
			},
		},
		{
			name: "sendgrid", verifier: preset("sendgrid"), secrets: [2]string{newECDSA(), newECDSA()}, unit: time.Second,
			headers: []string{"x-twilio-email-event-webhook-signature", "x-twilio-email-event-webhook-timestamp"},
			stamp:   header("x-twilio-email-event-webhook-timestamp"),
			signed: func(r promise.WebhookRequest) string {
				return r.Header["x-twilio-email-event-webhook-timestamp"] + string(r.Body)
			},
			sign: signECDSA, valid: validECDSA,
		},
		{
			name: "docusign", verifier: preset("docusign"), secrets: [2]string{"Zmlyc3Qtb2YtZG9jdXNpZ24=", "c2Vjb25kLW9mLWRvY3VzaWdu"},
			headers: []string{"x-docusign-signature-1"}, signed: bodyOnly, sign: base64MAC,
		},
	}
}

func standards() []sender {
	return []sender{
		standard("standard-webhooks", "webhook-", [2]string{whsec("a"), whsec("b")}),
		standard("svix", "svix-", [2]string{whsec("c"), whsec("d")}),
		standard("standard-webhooks with public keys", "webhook-", [2]string{newEd25519(), newEd25519()}),
		standard("standard-webhooks with both", "webhook-", [2]string{whsec("e"), newEd25519()}),
	}
}

func generics() []sender {
	hmacOf := func(h promise.HMACVerifier) promise.SourceVerifier { return promise.SourceVerifier{HMAC: &h} }
	return []sender{
		{
			name: "hmac", secrets: [2]string{"first of hmac", "second of hmac"}, headers: []string{"x-signature", "x-timestamp"}, unit: time.Second,
			verifier: hmacOf(promise.HMACVerifier{
				Algorithm: "sha512", Header: "x-signature", Prefix: "sha512=", Encoding: "base64url", Signed: "v2:{timestamp}:{url}:{body}",
				TimestampHeader: "x-timestamp",
			}),
			stamp: header("x-timestamp"),
			signed: func(r promise.WebhookRequest) string {
				return "v2:" + r.Header["x-timestamp"] + ":" + fullURL(r) + ":" + string(r.Body)
			},
			sign: func(secret, signed string) string {
				return base64.RawURLEncoding.EncodeToString(mac(sha512.New, []byte(secret), signed))
			},
			write: prefixed("sha512=", ","),
		},
		{
			name: "hmac of the body", secrets: [2]string{"first of hmac", "second of hmac"}, headers: []string{"x-signature"},
			verifier: hmacOf(promise.HMACVerifier{Algorithm: "sha1", Header: "x-signature", Encoding: "hex", Signed: "{body}"}),
			signed:   bodyOnly,
			sign:     func(secret, signed string) string { return hex.EncodeToString(mac(sha1.New, []byte(secret), signed)) },
		},
		{
			name: "bearer", verifier: promise.SourceVerifier{Bearer: &struct{}{}}, secrets: [2]string{"first-of-bearer", "second-of-bearer"},
			headers: []string{"authorization"}, signed: credentialOf, sign: func(secret, _ string) string { return "Bearer " + secret },
		},
		{
			name: "basic", verifier: promise.SourceVerifier{Basic: &promise.BasicUser{User: "acme"}}, secrets: [2]string{"first:of basic", "second:of basic"},
			headers: []string{"authorization"}, signed: credentialOf,
			sign: func(secret, _ string) string {
				return "Basic " + base64.StdEncoding.EncodeToString([]byte("acme:"+secret))
			},
		},
	}
}

func senderOf(t testing.TB, name string) sender {
	t.Helper()
	i := slices.IndexFunc(senders, func(s sender) bool { return s.name == name })
	require.NotEqual(t, -1, i, name)
	return senders[i]
}

// timestamp returns the text of a time in the sender's unit.
func (s sender) timestamp(at time.Time) string {
	if s.unit == 0 {
		return ""
	}
	return strconv.FormatInt(at.UnixNano()/int64(s.unit), 10)
}

// request returns a request that was signed with each of the secrets.
func (s sender) request(at time.Time, secrets ...string) promise.WebhookRequest {
	timestamp := s.timestamp(at)
	r := promise.WebhookRequest{Header: map[string]string{"content-type": "application/json"}, Query: someQuery, URL: address, Body: jsonBody("")}
	if s.body != nil {
		r.Body = s.body(timestamp)
	}
	if s.media != "" {
		r.Header["content-type"] = s.media
	}
	if len(s.headers) > 1 {
		r.Header[s.headers[1]] = timestamp
	}
	if len(s.headers) > 2 {
		r.Header[s.headers[2]] = eventID
	}
	write := s.write
	if write == nil {
		write = prefixed("", ",")
	}
	r.Header[s.headers[0]] = write(timestamp, nil) // the signed text may begin with the timestamp of this header
	signs := make([]string, len(secrets))
	for i, secret := range secrets {
		signs[i] = s.sign(secret, s.signed(r))
	}
	r.Header[s.headers[0]] = write(timestamp, signs)
	return r
}

// clone returns a copy that can be changed.
func clone(r promise.WebhookRequest) promise.WebhookRequest {
	r.Header = maps.Clone(r.Header)
	r.Body = slices.Clone(r.Body)
	return r
}

// with returns a copy of the request with another header. An empty value removes it.
func with(r promise.WebhookRequest, name, value string) promise.WebhookRequest {
	r = clone(r)
	if r.Header[name] = value; value == "" {
		delete(r.Header, name)
	}
	return r
}

func requireVerified(t *testing.T, v promise.SourceVerifier, secrets []string, r promise.WebhookRequest) promise.Verification {
	t.Helper()
	got, err := webhook.Verify(v, secrets, r, now)
	require.NoError(t, err)
	return got
}

func requireRefused(t *testing.T, want webhook.Refusal, v promise.SourceVerifier, secrets []string, r promise.WebhookRequest) {
	t.Helper()
	got, err := webhook.Verify(v, secrets, r, now)
	require.Equal(t, want, err)
	require.Zero(t, got)
}
