package webhook

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/flovyn/promises/shared/promise"
)

// The lengths of a shared secret in bytes.
const (
	minSecret = 8
	maxSecret = 512
	newSecret = 32 // before it is written as text
)

// The beginnings of secrets of standard-webhooks (spec/standard-webhooks.md, "Signature
// scheme").
const (
	standardPrefix = "whsec_"
	publicPrefix   = "whpk_"
	privatePrefix  = "whsk_"
)

// A key verifies signatures of one algorithm.
type key struct {
	algorithm algorithm
	shared    []byte // of an HMAC; for credential, what the header must have
	ecdsa     *ecdsa.PublicKey
	ed25519   ed25519.PublicKey
}

// key returns the key that a secret's text means, and reports whether there is one. A
// shared key has at least one byte: everyone can sign with an empty one.
func (s *scheme) key(secret string) (key, bool) {
	switch s.secret {
	case standardKey:
		return standardKeyOf(secret)
	case publicKey:
		der, err := base64.StdEncoding.DecodeString(secret)
		if err != nil {
			return key{}, false
		}
		parsed, err := x509.ParsePKIXPublicKey(der)
		if err != nil {
			return key{}, false
		}
		public, ok := parsed.(*ecdsa.PublicKey)
		return key{algorithm: ecdsaP256, ecdsa: public}, ok && public.Curve == elliptic.P256()
	default:
		return key{algorithm: s.algorithm, shared: []byte(s.user + secret)}, secret != "" && !isPublicKey(secret)
	}
}

// isPublicKey reports whether a text is a public key, which everyone may know. A source
// keeps it as a secret after a change from a preset that verifies with it.
func isPublicKey(text string) bool {
	if strings.HasPrefix(text, publicPrefix) {
		return true
	}
	der, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return false
	}
	_, err = x509.ParsePKIXPublicKey(der)
	return err == nil
}

// standardKeyOf reads a secret of standard-webhooks.
func standardKeyOf(secret string) (key, bool) {
	if text, found := strings.CutPrefix(secret, publicPrefix); found {
		public, err := base64.StdEncoding.DecodeString(text)
		return key{algorithm: ed25519Sig, ed25519: public}, err == nil && len(public) == ed25519.PublicKeySize
	}
	text, found := strings.CutPrefix(secret, standardPrefix)
	shared, err := base64.StdEncoding.DecodeString(text)
	return key{algorithm: hmacSHA256, shared: shared}, found && err == nil && len(shared) > 0
}

// isText reports whether a secret has no control characters, and no white space at its
// ends. The secret in a header also has visible ASCII characters only.
func isText(secret string, header bool) bool {
	return utf8.ValidString(secret) && strings.TrimSpace(secret) == secret && !strings.ContainsFunc(secret, func(c rune) bool {
		return unicode.IsControl(c) || header && (c <= ' ' || c > '~')
	})
}

// CheckSecret returns a *promise.Error with the field secret unless the text can be a
// secret of the verifier: 8 to 512 bytes that sender and source share, or a public key.
// v is one that CheckVerifier accepts.
func CheckSecret(v promise.SourceVerifier, secret string) error {
	s, ok := schemeOf(v)
	if !ok {
		return inField("verifier", promise.CodeOutOfRange, "The verifier is invalid, so it has no secret.")
	}
	if v.Preset == "gitlab" && strings.HasPrefix(secret, standardPrefix) {
		return inField("secret", promise.CodeOutOfRange,
			"A secret that begins with whsec_ is a signing token of GitLab. Use the preset standard-webhooks for it, or send GitLab's secret token.")
	}
	if s.secret == standardKey && strings.HasPrefix(secret, privatePrefix) {
		return inField("secret", promise.CodeOutOfRange, "A secret that begins with whsk_ is a private key. Send the public key, which begins with whpk_.")
	}
	if !s.accepts(secret) {
		return inField("secret", promise.CodeOutOfRange, s.secretDetail(v.Preset))
	}
	return nil
}

// accepts reports whether the secret has the form and the length of the scheme's.
func (s *scheme) accepts(secret string) bool {
	k, ok := s.key(secret)
	if !ok || k.ecdsa != nil || k.ed25519 != nil {
		return ok
	}
	shared := len(k.shared) - len(s.user)
	return shared >= minSecret && shared <= maxSecret && strings.HasPrefix(secret, s.begins) && isText(secret, s.secret == headerText)
}

// secretDetail says which secrets the scheme has.
func (s *scheme) secretDetail(preset string) string {
	const text = "secret must be no public key, and have 8 to 512 bytes, no control characters, and no white space at its ends"
	switch {
	case s.secret == standardKey:
		return "secret must be whsec_ and the base64 of 8 to 512 bytes, or whpk_ and the base64 of an ed25519 public key."
	case s.secret == publicKey:
		return "secret must be the verification key of " + preset + ": the base64 of an ECDSA public key (P-256), without BEGIN and END lines."
	case s.begins != "":
		return text + ". The signing secret of " + preset + " begins with " + s.begins + ": copy it from the endpoint's page."
	case s.secret == headerText:
		return text + ". It travels in a header, so its characters must be visible ASCII."
	default:
		return text + "."
	}
}

// NewSecret returns a new random secret for a verifier whose secret the service may
// make: 64 hexadecimal digits. It returns an empty text for other verifiers, because
// their senders make the secret.
func NewSecret(v promise.SourceVerifier) string {
	s, ok := schemeOf(v)
	if !ok || !s.preset.Generates {
		return ""
	}
	secret := make([]byte, newSecret)
	_, _ = rand.Read(secret) // it never fails: it ends the process instead
	return hex.EncodeToString(secret)
}
