// Package webhook verifies the requests that providers send, before anything else
// reads them.
//
// Verify decides whether the sender of a request knows the secret of a source. It works
// on the bytes as they were received, needs no database, and its time and memory are
// bounded by the size of the request. CheckVerifier and CheckSecret decide what a
// source may have. URLKey makes the part of a source's URL that an outsider cannot
// invent, Cache keeps what was looked up, and Answer knows the requests by which
// providers check a URL.
//
// No error of this package contains a secret, or any part of a request.
package webhook

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/subtle"
	"encoding/json"
	"hash"
	"strconv"
	"time"

	"github.com/flovyn/promises/shared/promise"
)

// A Refusal is the reason why Verify refuses a request. The set is closed, so a reason
// can be stored and shown.
type Refusal string

// The refusals. TooOld and FromFuture mean that the signature itself is valid.
const (
	NoSecret         Refusal = "the source has no secret"
	MissingSignature Refusal = "the signature header is missing"
	MissingTimestamp Refusal = "the timestamp is missing"
	MissingID        Refusal = "the header with the message's id is missing"
	TwoTimestamps    Refusal = "two timestamps"
	Malformed        Refusal = "malformed: the signature, the timestamp, the id or the form cannot be read"
	NoMatch          Refusal = "no signature matches"
	TooOld           Refusal = "the timestamp is too old"
	FromFuture       Refusal = "the timestamp is in the future"
)

// Error returns the reason.
func (r Refusal) Error() string { return string(r) }

// Verify returns the identity of a request if one of the secrets signed it, and a
// Refusal otherwise. All secrets are tried. Of several signatures in a request, one
// must be valid.
//
// The headers of r have names in lower case. The timestamp, if the scheme has one, may
// be as far from now as the tolerance of v permits, before and after. A comparison with
// a secret, or with a signature that was made with one, takes the same time for all
// texts of one length.
//
// Verify refuses a verifier that CheckVerifier refuses, and ignores a secret that is
// empty or no key of the scheme. A refusal costs at least a hash of the body, so that
// its time does not show whether the source exists.
func Verify(v promise.SourceVerifier, secrets []string, r promise.WebhookRequest, now time.Time) (promise.Verification, error) {
	s, ok := schemeOf(v)
	if !ok || len(secrets) == 0 {
		spend(r.Body)
		return promise.Verification{}, NoSecret
	}
	m, refusal := s.read(r)
	if refusal != "" {
		spend(r.Body)
		return promise.Verification{}, refusal
	}
	url, ok := m.match(secrets)
	if !ok {
		if !m.hashed {
			spend(r.Body)
		}
		return promise.Verification{}, NoMatch
	}
	if refusal := m.inTime(now); refusal != "" {
		return promise.Verification{}, refusal
	}
	return promise.Verification{SignedID: m.id, Digest: m.digest(url)}, nil
}

// Decoy returns a verifier and secrets for a source that does not exist. Verify refuses
// every request with them, for the work that a request with a wrong signature costs.
func Decoy() (promise.SourceVerifier, []string) { return promise.SourceVerifier{}, nil }

// spend does the work of a verification.
func spend(body []byte) {
	mac := hmac.New(sha256.New, decoyKey[:])
	mac.Write(body)
	hmac.Equal(mac.Sum(nil), decoyKey[:])
}

var decoyKey [sha256.Size]byte

// match reports whether one of the secrets made one of the signatures, and returns the
// URL that it signed. The URL is empty if the scheme signs none.
func (m *message) match(secrets []string) (url string, ok bool) {
	for _, secret := range secrets {
		key, valid := m.key(secret)
		if !valid {
			continue
		}
		for _, url := range m.urls {
			if m.matches(key, url) {
				return url, true
			}
		}
	}
	return "", false
}

// matches reports whether the key made one of the signatures, over this URL.
func (m *message) matches(k key, url string) bool {
	switch k.algorithm {
	case credential:
		got, want := sha256.Sum256(m.signatures[0].value), sha256.Sum256(k.shared)
		return subtle.ConstantTimeCompare(got[:], want[:]) == 1
	case ecdsaP256:
		m.hashed = true
		digest := m.digest(url)
		return m.any(k.algorithm, func(signature []byte) bool { return ecdsa.VerifyASN1(k.ecdsa, digest[:], signature) })
	case ed25519Sig:
		var signed buffer
		m.write(&signed, url)
		return m.any(k.algorithm, func(signature []byte) bool { return ed25519.Verify(k.ed25519, signed, signature) })
	default:
		m.hashed = true
		mac := hmac.New(k.algorithm.hash(), k.shared)
		m.write(mac, url)
		want := mac.Sum(nil)
		return m.any(k.algorithm, func(signature []byte) bool { return hmac.Equal(signature, want) })
	}
}

// any reports whether valid accepts one of the signatures of the algorithm.
func (m *message) any(a algorithm, valid func(signature []byte) bool) bool {
	for _, s := range m.signatures {
		if s.algorithm == a && valid(s.value) {
			return true
		}
	}
	return false
}

// hash returns the hash function of an HMAC.
func (a algorithm) hash() func() hash.Hash {
	switch a {
	case hmacSHA1:
		return sha1.New
	case hmacSHA512:
		return sha512.New
	default:
		return sha256.New
	}
}

// digest returns the hash that identifies the request: of the signed bytes, or of the
// query and the body if nothing is signed.
func (m *message) digest(url string) [sha256.Size]byte {
	h := sha256.New()
	if m.signed == "" {
		writeText(h, m.query)
		writeText(h, "\n")
		h.Write(m.body)
	} else {
		m.write(h, url)
	}
	return [sha256.Size]byte(h.Sum(nil))
}

// inTime returns a refusal unless the timestamp is within the tolerance of now.
func (m *message) inTime(now time.Time) Refusal {
	if m.tolerance == 0 {
		return ""
	}
	text, refusal := m.timestamp, Refusal("")
	if m.member != "" {
		if text, refusal = memberOf(m.body, m.member); refusal != "" {
			return refusal
		}
	}
	n, _ := strconv.ParseInt(text, 10, 64) // maxDigits digits fit
	at := time.Unix(n, 0)
	if m.milli {
		at = time.UnixMilli(n)
	}
	tolerance := time.Duration(m.tolerance) * time.Second
	switch age := now.Sub(at); {
	case age > tolerance:
		return TooOld
	case age < -tolerance:
		return FromFuture
	}
	return ""
}

// memberOf returns the digits of a timestamp in the body, which is a JSON object.
func memberOf(body []byte, name string) (string, Refusal) {
	var members map[string]json.RawMessage
	if json.Unmarshal(body, &members) != nil {
		return "", Malformed
	}
	value, ok := members[name]
	switch {
	case !ok:
		return "", MissingTimestamp
	case !isTimestamp(string(value)):
		return "", Malformed
	}
	return string(value), ""
}
