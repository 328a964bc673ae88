package webhook

import (
	"maps"
	"slices"

	"github.com/flovyn/promises/shared/promise"
)

// A scheme says how a sender proves that a request is its own. It is data: Verify has
// the code for all of them. A preset is a scheme with a name, and the generic verifiers
// of a source become schemes, too.
type scheme struct {
	algorithm algorithm
	names     []names     // alternatives; the first whose headers are all there counts
	layout    layout      // of the signature header
	prefix    string      // before a plain signature
	version   string      // the name of a signature, in pairs and lists
	public    string      // the name of an ed25519 signature in a list; empty: none
	separator string      // characters between pairs. A comma is one, because API Gateway joins repeated headers by it
	stamp     string      // the name of the timestamp, in pairs
	member    string      // the member of the JSON body with the timestamp; empty: the timestamp is in a header, or there is none
	milli     bool        // the timestamp has milliseconds, not seconds
	tolerance int         // seconds between the timestamp and now, before and after; 0: any time
	encoding  encoding    // of a signature
	signed    string      // a template of the signed bytes; empty: nothing is signed, and the header has the secret itself
	ports     bool        // the sender may sign the URL with its default port or without
	user      string      // before the secret in a credential, with a colon
	secret    secretForm  // of the secret's text
	begins    string      // the beginning of each secret's text
	preset    presetRules // beside the verifier
}

// presetRules are the part of a preset that other packages see.
type presetRules = promise.SourcePreset

// A names is a set of headers, in lower case. An empty name: the scheme has no such
// header.
type names struct{ signature, timestamp, id string }

// An algorithm is a way to sign.
type algorithm string

const (
	hmacSHA1   algorithm = "sha1"
	hmacSHA256 algorithm = "sha256"
	hmacSHA512 algorithm = "sha512"
	ecdsaP256  algorithm = "ecdsa"   // with SHA-256, over the curve P-256
	ed25519Sig algorithm = "ed25519" // over the signed bytes themselves
	credential algorithm = "none"    // the header has the secret
)

// A layout is a way to write signatures into headers.
type layout int

const (
	plain    layout = iota // one signature
	numbered               // one in each of the headers NAME1, NAME2 and so on
	pairs                  // t=1,v1=abc
	list                   // v1,abc v1,def
)

// An encoding is a way to write bytes as text.
type encoding string

const (
	hexadecimal encoding = "hex"
	base64Std   encoding = "base64"
	base64URL   encoding = "base64url"
	verbatim    encoding = ""
)

// A secretForm is a way to write a key as the text of a secret.
type secretForm int

const (
	rawText     secretForm = iota // the bytes of the text are the key
	headerText                    // the same, and the text fits into a header
	standardKey                   // whsec_ and the base64 of a key, or whpk_ and the base64 of an ed25519 public key
	publicKey                     // the base64 of a public key in DER (SubjectPublicKeyInfo)
)

// fiveMinutes is the tolerance that most providers advise.
const fiveMinutes = 300

// presets has a scheme for each provider. The sources of the rules are:
//
//   - docusign: developers.docusign.com/platform/webhooks/connect/hmac. An account has
//     up to 100 keys, and each signs.
//   - github: docs.github.com/en/webhooks/using-webhooks/validating-webhook-deliveries
//   - gitlab: docs.gitlab.com/user/project/integrations/webhooks. This is its secret
//     token. Its signing token is a secret of standard-webhooks.
//   - linear: linear.app/developers/webhooks. It advises a tolerance of one minute, and
//     repeats a request after a minute for the first time. It does not say that a
//     repetition has a timestamp of its own, so the tolerance is longer.
//   - paddle: developer.paddle.com/webhooks/about/signature-verification. Its SDK has a
//     tolerance of 5 seconds: a cold start, or a clock that is wrong by as much, would
//     lose events.
//   - sendgrid: twilio.com/docs/sendgrid/for-developers/tracking-events/getting-started-event-webhook-security-features.
//     It names no tolerance.
//   - shopify: shopify.dev/docs/apps/build/webhooks/verify-deliveries
//   - slack: docs.slack.dev/authentication/verifying-requests-from-slack
//   - square: developer.squareup.com/docs/webhooks/step3validate
//   - standard-webhooks: spec/standard-webhooks.md of github.com/standard-webhooks/standard-webhooks,
//     and docs.svix.com/receiving/verifying-payloads/how-manual for the headers of Svix
//   - stripe: docs.stripe.com/webhooks/signature
//   - twilio: twilio.com/docs/usage/security, and for repeated fields and the port the
//     request validators of its libraries for Python and Go
var presets = map[string]scheme{
	"docusign": {
		algorithm: hmacSHA256, names: []names{{signature: "x-docusign-signature-"}}, layout: numbered, encoding: base64Std,
		signed: "{body}",
		preset: presetRules{KeyPrefix: "docusign:"},
	},
	"github": {
		algorithm: hmacSHA256, names: []names{{signature: "x-hub-signature-256"}}, prefix: "sha256=", encoding: hexadecimal,
		signed: "{body}",
		preset: presetRules{KeyPrefix: "github:", Handshake: promise.HandshakeGit, Generates: true},
	},
	"gitlab": {
		algorithm: credential, names: []names{{signature: "x-gitlab-token"}}, secret: headerText,
		preset: presetRules{KeyPrefix: "gitlab:", Generates: true},
	},
	"linear": {
		algorithm: hmacSHA256, names: []names{{signature: "linear-signature"}}, encoding: hexadecimal,
		signed: "{body}", member: "webhookTimestamp", milli: true, tolerance: fiveMinutes,
		preset: presetRules{KeyPrefix: "linear:"},
	},
	"paddle": {
		algorithm: hmacSHA256, names: []names{{signature: "paddle-signature"}}, layout: pairs, separator: ";,", stamp: "ts", version: "h1",
		encoding: hexadecimal, signed: "{timestamp}:{body}", tolerance: fiveMinutes,
		preset: presetRules{KeyPrefix: "paddle:", EventID: "body.event_id"},
	},
	"sendgrid": {
		algorithm: ecdsaP256, encoding: base64Std, signed: "{timestamp}{body}", secret: publicKey,
		names: []names{{
			signature: "x-twilio-email-event-webhook-signature", timestamp: "x-twilio-email-event-webhook-timestamp",
		}},
		preset: presetRules{KeyPrefix: "sendgrid:", Each: "body", EventID: "item.sg_event_id"},
	},
	"shopify": {
		algorithm: hmacSHA256, names: []names{{signature: "x-shopify-hmac-sha256"}}, encoding: base64Std, signed: "{body}",
		preset: presetRules{KeyPrefix: "shopify:"},
	},
	"slack": {
		algorithm: hmacSHA256, names: []names{{signature: "x-slack-signature", timestamp: "x-slack-request-timestamp"}},
		prefix: "v0=", encoding: hexadecimal, signed: "v0:{timestamp}:{body}", tolerance: fiveMinutes,
		preset: presetRules{KeyPrefix: "slack:", EventID: `has(body.event_id) ? body.event_id : ""`, Handshake: promise.HandshakeSlack, NoAnswer: true},
	},
	"square": {
		algorithm: hmacSHA256, names: []names{{signature: "x-square-hmacsha256-signature"}}, encoding: base64Std, signed: "{url}{body}",
		preset: presetRules{KeyPrefix: "square:", EventID: "body.event_id", SignsURL: true},
	},
	"standard-webhooks": {
		algorithm: hmacSHA256, layout: list, version: "v1", public: "v1a", encoding: base64Std, secret: standardKey,
		names: []names{
			{signature: "webhook-signature", timestamp: "webhook-timestamp", id: "webhook-id"},
			{signature: "svix-signature", timestamp: "svix-timestamp", id: "svix-id"},
		},
		signed: "{id}.{timestamp}.{body}", tolerance: fiveMinutes,
		preset: presetRules{KeyPrefix: "standard-webhooks:"},
	},
	"stripe": {
		algorithm: hmacSHA256, names: []names{{signature: "stripe-signature"}}, layout: pairs, separator: ",", stamp: "t", version: "v1",
		encoding: hexadecimal, signed: "{timestamp}.{body}", tolerance: fiveMinutes, begins: standardPrefix,
		preset: presetRules{KeyPrefix: "stripe:", EventID: "body.id"},
	},
	"twilio": {
		algorithm: hmacSHA1, names: []names{{signature: "x-twilio-signature"}}, encoding: base64Std, signed: "{url}{form}", ports: true,
		preset: presetRules{KeyPrefix: "twilio:", SignsURL: true, NoAnswer: true},
	},
}

// Preset returns the part of a preset that is not its verifier, and reports whether the
// preset exists.
func Preset(name string) (promise.SourcePreset, bool) {
	s, ok := presets[name]
	return s.preset, ok
}

// Presets returns the names of all presets, sorted.
func Presets() []string { return slices.Sorted(maps.Keys(presets)) }

// CredentialHeader returns the name of the header that has the secret itself, or an empty
// text if the sender signs instead. Nothing but Verify may see its value: no rule, no
// log, and no kept request.
func CredentialHeader(v promise.SourceVerifier) string {
	if s, ok := schemeOf(v); ok && s.algorithm == credential {
		return s.names[0].signature
	}
	return ""
}

// schemeOf returns the scheme of a verifier, and reports whether CheckVerifier accepts
// the verifier. The tolerance is the source's own, if it has one.
func schemeOf(v promise.SourceVerifier) (scheme, bool) {
	var s scheme
	switch {
	case members(v) != 1 || checkKind(v) != nil:
		return scheme{}, false
	case v.HMAC != nil:
		s = hmacScheme(*v.HMAC)
	case v.Bearer != nil:
		s = scheme{algorithm: credential, names: []names{{signature: "authorization"}}, prefix: "Bearer ", secret: headerText, preset: presetRules{Generates: true}}
	case v.Basic != nil:
		s = scheme{
			algorithm: credential, names: []names{{signature: "authorization"}}, prefix: "Basic ", encoding: base64Std, user: v.Basic.User + ":",
			preset: presetRules{Generates: true},
		}
	default:
		s = presets[v.Preset]
		if v.ToleranceSeconds != nil {
			s.tolerance = *v.ToleranceSeconds
		}
	}
	return s, true
}

// hmacScheme returns the scheme of a verifier that names each part of it.
func hmacScheme(h promise.HMACVerifier) scheme {
	s := scheme{
		algorithm: algorithm(h.Algorithm), names: []names{{signature: h.Header, timestamp: h.TimestampHeader}}, prefix: h.Prefix,
		encoding: encoding(h.Encoding), signed: h.Signed, preset: presetRules{Generates: true},
	}
	switch {
	case h.ToleranceSeconds != nil:
		s.tolerance = *h.ToleranceSeconds
	case h.TimestampHeader != "":
		s.tolerance = fiveMinutes
	}
	return s
}
