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
	// MinSecretBytes is the minimal length of a legacy secret, and the length of the
	// hash. A shorter secret would be easier to guess than a signature.
	MinSecretBytes = 32

	// privatePrefix begins the text of a private key, for secret scanners.
	privatePrefix = "ed25519-private:"

	// publicPrefix begins the kid of each Ed25519 key. No kid in TOKEN_KEYS has a
	// colon, so each kid belongs to one algorithm.
	publicPrefix = "ed25519:"

	// PrivateKeyPattern is a regular expression that finds private signing keys in
	// text, for secret scanners (RE2 and PCRE).
	PrivateKeyPattern = privatePrefix + `[A-Za-z0-9_-]{43}`
)

// A SigningKey is the private half of an Ed25519 key pair that signs promise tokens.
// The zero SigningKey signs nothing. It can be copied, it is safe for concurrent
// use, and neither fmt nor slog shows it.
type SigningKey struct {
	private func() ed25519.PrivateKey // a function, because fmt calls none
}

// NewSigningKey returns a random key.
func NewSigningKey() SigningKey {
	seed := make([]byte, ed25519.SeedSize)
	rand.Read(seed) //nolint:errcheck // never fails: it ends the process instead
	return signingKeyOf(seed)
}

func signingKeyOf(seed []byte) SigningKey {
	private := ed25519.NewKeyFromSeed(seed)
	return SigningKey{func() ed25519.PrivateKey { return private }}
}

// ParseSigningKey parses the text that SigningKey.Text returns. Its error quotes no part of the text.
func ParseSigningKey(text string) (SigningKey, error) {
	encoded, ok := strings.CutPrefix(strings.TrimSpace(text), privatePrefix)
	if !ok {
		return SigningKey{}, errors.New("the signing key must begin with " + privatePrefix)
	}
	seed, err := base64.RawURLEncoding.Strict().DecodeString(encoded)
	if err != nil || len(seed) != ed25519.SeedSize || strings.ContainsAny(encoded, lineBreaks) {
		return SigningKey{}, fmt.Errorf("the signing key must be %s and the base64url form of %d bytes, without padding", privatePrefix, ed25519.SeedSize)
	}
	return signingKeyOf(seed), nil
}

// Text returns the key as text. It is a secret.
func (k SigningKey) Text() string {
	return privatePrefix + base64.RawURLEncoding.EncodeToString(k.private().Seed())
}

// Public returns the public half, as the database stores it.
func (k SigningKey) Public() promise.SigningKey {
	public := k.private()[ed25519.SeedSize:]
	return promise.SigningKey{KID: kidOf(public), PublicKey: public}
}

// kidOf returns the kid of an Ed25519 key: a hash of its public half.
func kidOf(public []byte) string {
	sum := sha256.Sum256(public)
	return publicPrefix + hex.EncodeToString(sum[:8])
}

// VerificationKeys is a set of keys that verify promise tokens. Each kid has one
// algorithm. The zero VerificationKeys verifies nothing. It can be copied, it is
// safe for concurrent use, and neither fmt nor slog shows a secret in it.
type VerificationKeys struct{ byID map[string]tokenKey }

// A tokenKey verifies the tokens of one kid.
type tokenKey struct {
	method jwt.SigningMethod
	key    func() any // []byte or ed25519.PublicKey; a function, because fmt calls none
	header string     // the encoded header of the key's tokens, with the dot
}

// ParsePublicKeys returns the keys of the rows. It ignores a row whose kid is not
// the one that kidOf returns for its key: a later release may store other kinds of keys.
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

var errUnknownKID = errors.New("unknown kid")

var legacyKID = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)

// lineBreaks are the characters that a base64 decoder skips, even a strict one.
const lineBreaks = "\r\n"

// ParseLegacySecrets parses TOKEN_KEYS, the HMAC secrets with which earlier releases
// signed tokens: "kid:secret", separated by commas. A kid is 1 to 64 of A-Z a-z 0-9
// . _ -. A secret is the base64url form, padded or not, of MinSecretBytes bytes or
// more. If a secret stands alone, its kid is a hash of it. Kids and secrets must be
// unique. The error gives the position of the bad secret and quotes nothing.
func ParseLegacySecrets(s string) (VerificationKeys, error) {
	keys := VerificationKeys{byID: map[string]tokenKey{}}
	for i, entry := range strings.Split(s, ",") {
		kid, encoded, named := strings.Cut(strings.TrimSpace(entry), ":")
		if !named {
			kid, encoded = legacyKIDOf(kid), kid
		}
		if !legacyKID.MatchString(kid) { // not quoted: it may be the secret, if the two were swapped
			return VerificationKeys{}, fmt.Errorf("secret %d: its kid must be 1 to 64 of A-Z a-z 0-9 . _ -", i+1)
		}
		secret, err := decodeSecret(encoded)
		if err != nil {
			return VerificationKeys{}, fmt.Errorf("secret %d: %w", i+1, err)
		}
		for other, k := range keys.byID {
			if same, _ := k.key().([]byte); other == kid || SameHash(same, secret) {
				return VerificationKeys{}, fmt.Errorf("secret %d repeats the kid or the value of an earlier secret", i+1)
			}
		}
		if err := keys.add(kid, jwt.SigningMethodHS256, secret); err != nil {
			return VerificationKeys{}, fmt.Errorf("secret %d: %w", i+1, err)
		}
	}
	return keys, nil
}

// legacyKIDOf returns the kid of a secret that was given without one. The kid, a
// truncated hash, does not reveal the secret.
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
		return nil, errors.New("it is not base64url text")
	}
	if len(secret) < MinSecretBytes {
		return nil, fmt.Errorf("it has %d bytes; at least %d are required", len(secret), MinSecretBytes)
	}
	return secret, nil
}
