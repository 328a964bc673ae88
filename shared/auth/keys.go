package auth

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/golang-jwt/jwt/v5"

	"github.com/flovyn/promises/shared/promise"
)

const (
	// MinSecretBytes is the least length of a legacy secret: the length of the
	// hash. A shorter secret would be easier to guess than a signature.
	MinSecretBytes = 32

	// privatePrefix begins the text of a private key, for secret scanners.
	privatePrefix = "ed25519-private:"

	// publicPrefix begins the kid of each Ed25519 key. No kid of TOKEN_KEYS has a
	// colon, so a kid belongs to one algorithm.
	publicPrefix = "ed25519:"

	// PrivateKeyPattern finds private signing keys in text. It is for secret
	// scanners (RE2 and PCRE).
	PrivateKeyPattern = privatePrefix + `[A-Za-z0-9_-]{43}`
)

// SigningKey is the private half of an Ed25519 pair, which signs promise tokens.
// The zero SigningKey signs nothing. It can be copied, it is safe for concurrent
// use, and neither fmt nor a log shows it.
type SigningKey struct {
	private func() ed25519.PrivateKey // in a function, which fmt does not call
}

// NewSigningKey makes a random key.
func NewSigningKey() SigningKey {
	seed := make([]byte, ed25519.SeedSize)
	rand.Read(seed) //nolint:errcheck // never fails: it ends the process instead
	return signingKeyOf(seed)
}

func signingKeyOf(seed []byte) SigningKey {
	private := ed25519.NewKeyFromSeed(seed)
	return SigningKey{func() ed25519.PrivateKey { return private }}
}

// ParseSigningKey reads the text that Text writes. Its error quotes nothing.
func ParseSigningKey(text string) (SigningKey, error) {
	encoded, ok := strings.CutPrefix(strings.TrimSpace(text), privatePrefix)
	if !ok {
		return SigningKey{}, errors.New("the signing key does not begin with " + privatePrefix)
	}
	seed, err := base64.RawURLEncoding.Strict().DecodeString(encoded)
	if err != nil || len(seed) != ed25519.SeedSize || strings.ContainsAny(encoded, lineBreaks) {
		return SigningKey{}, fmt.Errorf("the signing key is not the base64url form of %d bytes, without padding, after %s", ed25519.SeedSize, privatePrefix)
	}
	return signingKeyOf(seed), nil
}

// Text returns the key as text. It is a secret.
func (k SigningKey) Text() string {
	return privatePrefix + base64.RawURLEncoding.EncodeToString(k.private().Seed())
}

// Public returns the public half, as the database keeps it.
func (k SigningKey) Public() promise.SigningKey {
	public := k.private()[ed25519.SeedSize:]
	return promise.SigningKey{KID: kidOf(public), PublicKey: public}
}

// kidOf returns the kid of an Ed25519 key, which follows from its public half.
func kidOf(public []byte) string {
	sum := sha256.Sum256(public)
	return publicPrefix + hex.EncodeToString(sum[:8])
}

// VerificationKeys verify promise tokens. A kid has one algorithm. The zero Keys verifies
// nothing. It can be copied, it is safe for concurrent use, and neither fmt nor a
// log shows a secret in it.
type VerificationKeys struct{ byID map[string]tokenKey }

// tokenKey verifies the tokens of one kid.
type tokenKey struct {
	method jwt.SigningMethod
	key    func() any // []byte or ed25519.PublicKey, in a function, which fmt does not call
	header string     // of each token of the key, as it is written in the token, with the dot
}

// ParsePublicKeys returns the keys of the rows. It ignores a row whose kid does not
// follow from its key: a later release may have other kinds.
func ParsePublicKeys(rows []promise.SigningKey) (VerificationKeys, error) {
	keys := VerificationKeys{byID: map[string]tokenKey{}}
	for _, row := range rows {
		if len(row.PublicKey) != ed25519.PublicKeySize || row.KID != kidOf(row.PublicKey) {
			continue
		}
		if err := keys.add(row.KID, jwt.SigningMethodEdDSA, ed25519.PublicKey(row.PublicKey)); err != nil {
			return VerificationKeys{}, err
		}
	}
	return keys, nil
}

func (k VerificationKeys) add(kid string, method jwt.SigningMethod, key any) error {
	text, err := unsigned(method, kid, nil).SigningString()
	if err != nil {
		return err
	}
	k.byID[kid] = tokenKey{method, func() any { return key }, text[:strings.IndexByte(text, '.')+1]}
	return nil
}

// find returns the key of the kid.
func (k VerificationKeys) find(kid string) (tokenKey, error) {
	key, ok := k.byID[kid]
	if !ok {
		return tokenKey{}, errUnknownKID
	}
	return key, nil
}

var errUnknownKID = errors.New("an unknown kid")

var legacyKID = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)

// lineBreaks are what a base64 decoder skips, even a strict one.
const lineBreaks = "\r\n"

// ParseLegacySecrets reads TOKEN_KEYS, the HMAC secrets with which earlier releases signed
// tokens: "kid:secret", separated by commas. A kid is 1 to 64 of A-Z a-z 0-9 . _ -,
// a secret the base64url form, padded or not, of MinSecretBytes or more. A secret
// can stand alone: its kid is then made of it. No kid and no secret may come
// twice. The error names the place and quotes nothing.
func ParseLegacySecrets(s string) (VerificationKeys, error) {
	keys := VerificationKeys{byID: map[string]tokenKey{}}
	for i, entry := range strings.Split(s, ",") {
		kid, encoded, named := strings.Cut(strings.TrimSpace(entry), ":")
		if !named {
			kid, encoded = legacyKIDOf(kid), kid
		}
		if !legacyKID.MatchString(kid) { // not quoted: the two may have changed places
			return VerificationKeys{}, fmt.Errorf("key %d: its kid is not 1 to 64 of A-Z a-z 0-9 . _ -", i+1)
		}
		secret, err := decodeSecret(encoded)
		if err != nil {
			return VerificationKeys{}, fmt.Errorf("key %d: %w", i+1, err)
		}
		for other, k := range keys.byID {
			if same, _ := k.key().([]byte); other == kid || SameHash(same, secret) {
				return VerificationKeys{}, fmt.Errorf("key %d has the kid or the secret of one before it", i+1)
			}
		}
		if err := keys.add(kid, jwt.SigningMethodHS256, secret); err != nil {
			return VerificationKeys{}, fmt.Errorf("key %d: %w", i+1, err)
		}
	}
	return keys, nil
}

// legacyKIDOf names a secret that has no name. The name says nothing about the
// secret.
func legacyKIDOf(encoded string) string {
	sum := sha256.Sum256([]byte("promises kid:" + strings.TrimRight(encoded, "=")))
	return hex.EncodeToString(sum[:4])
}

func decodeSecret(s string) ([]byte, error) {
	encoding := base64.RawURLEncoding
	if strings.HasSuffix(s, "=") {
		encoding = base64.URLEncoding
	}
	secret, err := encoding.Strict().DecodeString(s)
	if err != nil || strings.ContainsAny(s, lineBreaks) {
		return nil, errors.New("its secret is not base64url")
	}
	if len(secret) < MinSecretBytes {
		return nil, fmt.Errorf("its secret has %d bytes: %d are needed", len(secret), MinSecretBytes)
	}
	return secret, nil
}
