package auth

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/uuid"

	"github.com/flovyn/promises/shared/promise"
)

const (
	issuer   = "promises"
	audience = "promise"

	// MaxTokenLength is the limit of a promise token, in bytes.
	MaxTokenLength = 2 << 10

	// MinSecretBytes is how long a secret must be that signs tokens: as long as
	// the hash, or the secret would be the easier thing to guess.
	MinSecretBytes = 32
)

// ErrTokenRefused is the one answer for every token that is not good. What
// wraps it tells the cause, for the log alone, without the token.
var ErrTokenRefused = errors.New("promise token refused")

// Token is what a promise token says: its holder may do this with this promise,
// until then.
type Token struct {
	ID        uuid.UUID
	Tenant    string // the tenant's slug
	PromiseID uuid.UUID
	Verbs     []promise.Verb
	ExpiresAt time.Time // in whole seconds; the token is good before it, no longer at it

	KeyID     uuid.UUID  // the API key that asked for the token; uuid.Nil: none did
	RevokedAt *time.Time // the last revocation of the promise's tokens when this one was issued, in microseconds; nil: none
	RawBody   bool       // see promise.Principal
}

func (t Token) check() error {
	switch {
	case t.ID == uuid.Nil:
		return errors.New("no token id")
	case promise.CheckName(t.Tenant) != nil:
		return errors.New("no tenant of 1 to 255 characters")
	case t.PromiseID == uuid.Nil:
		return errors.New("no promise id")
	case len(t.Verbs) == 0:
		return errors.New("no verbs")
	}
	for i, v := range t.Verbs {
		if !v.Valid() || slices.Contains(t.Verbs[:i], v) {
			return errors.New("an unknown verb, or one twice")
		}
	}
	return nil
}

// Keys are the secrets that sign promise tokens. The first signs, all verify.
// To rotate them, add a new one at the end; when every process has it, move it
// to the front; when the last token of the old one is over, take that out. The
// zero Keys signs and verifies nothing. It can be copied
// and is safe for concurrent use.
type Keys struct {
	first string // the kid that signs
	byID  map[string]tokenKey
}

type tokenKey struct {
	secret func() []byte // within a function, where no verb of fmt and no log looks
	header string        // of every token that it signs, as it stands in the token, with the dot
}

var keyID = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)

// lineBreaks are what a base64 decoder skips, even a strict one.
const lineBreaks = "\r\n"

// ParseKeys reads the value of TOKEN_KEYS: "kid:secret", separated by commas,
// the signing one first. A kid is 1 to 64 of A-Z a-z 0-9 . _ -, a secret the
// base64url form, padded or not, of MinSecretBytes or more. A secret can stand
// alone: its kid is made of it then. So 64 random letters and digits, which every
// generator of passwords makes, are a key. No kid and no secret may come twice. Its error tells the place and quotes nothing.
func ParseKeys(s string) (Keys, error) {
	keys := Keys{byID: map[string]tokenKey{}}
	for i, entry := range strings.Split(s, ",") {
		kid, encoded, named := strings.Cut(strings.TrimSpace(entry), ":")
		if !named {
			kid, encoded = kidOf(kid), kid
		}
		if !keyID.MatchString(kid) { // not quoted: the two may have changed places
			return Keys{}, fmt.Errorf("key %d: its kid is not 1 to 64 of A-Z a-z 0-9 . _ -", i+1)
		}
		secret, err := decodeSecret(encoded)
		if err != nil {
			return Keys{}, fmt.Errorf("key %d: %w", i+1, err)
		}
		for other, k := range keys.byID {
			if other == kid || SameHash(k.secret(), secret) {
				return Keys{}, fmt.Errorf("key %d has the kid or the secret of one before it", i+1)
			}
		}
		text, err := unsigned(kid, nil).SigningString()
		if err != nil {
			return Keys{}, fmt.Errorf("key %d: %w", i+1, err)
		}
		keys.byID[kid] = tokenKey{func() []byte { return secret }, text[:strings.IndexByte(text, '.')+1]}
		if i == 0 {
			keys.first = kid
		}
	}
	return keys, nil
}

// kidOf names a key that has no name. Who knows the name knows nothing of the
// secret.
func kidOf(encoded string) string {
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

// Sign writes a token that Verify reads. A part of a second of ExpiresAt is cut
// off. It fails where there is no key, where Verify would refuse the token, and
// where it would be over already.
func (k Keys) Sign(t Token, now time.Time) (string, error) {
	key, ok := k.byID[k.first]
	if !ok {
		return "", errors.New("sign promise token: there is no key")
	}
	if err := t.check(); err != nil {
		return "", fmt.Errorf("sign promise token: %w", err)
	}
	exp := jwt.NewNumericDate(t.ExpiresAt)
	if !exp.After(now) {
		return "", errors.New("sign promise token: it expires before it is made")
	}
	s, err := unsigned(k.first, &claims{
		Issuer: issuer, Audience: audience, Subject: t.PromiseID.String(), Tenant: t.Tenant, Verbs: t.Verbs,
		IssuedAt: jwt.NewNumericDate(now), ExpiresAt: exp, ID: t.ID.String(), restriction: t.restriction(),
	}).SignedString(key.secret())
	if err != nil {
		return "", fmt.Errorf("sign promise token: %w", err)
	}
	if len(s) > MaxTokenLength {
		return "", fmt.Errorf("sign promise token: it would be %d bytes long", len(s))
	}
	return s, nil
}

func unsigned(kid string, c *claims) *jwt.Token {
	t := jwt.NewWithClaims(jwt.SigningMethodHS256, c)
	t.Header["kid"] = kid
	return t
}

// Verify reads a token that Sign wrote with one of the keys, and that is not
// over. Its error is ErrTokenRefused, wrapped with the cause. Which tenant and
// which promise the token is for, the caller must compare.
func (k Keys) Verify(s string, now time.Time) (Token, error) {
	t, err := k.verify(s, now)
	if err != nil {
		return Token{}, fmt.Errorf("%w: %w", ErrTokenRefused, err)
	}
	return t, nil
}

func (k Keys) verify(s string, now time.Time) (Token, error) {
	if len(s) > MaxTokenLength {
		return Token{}, fmt.Errorf("%d bytes", len(s))
	}
	if strings.ContainsAny(s, lineBreaks) {
		return Token{}, errors.New("a line break within")
	}
	// Whether iat lies ahead is not asked: clocks differ, and a fresh token
	// would be refused.
	parser := jwt.NewParser(
		jwt.WithValidMethods([]string{jwt.SigningMethodHS256.Alg()}), jwt.WithStrictDecoding(),
		jwt.WithExpirationRequired(), jwt.WithIssuer(issuer), jwt.WithAudience(audience),
		jwt.WithTimeFunc(func() time.Time { return now }),
	)
	var c claims
	if _, err := parser.ParseWithClaims(s, &c, k.secret); err != nil {
		return Token{}, err
	}
	return c.token()
}

// secret finds the secret of a token's kid. The header must be the one that
// Sign writes, byte for byte: then no second alg, no crit, and nothing else
// that one reader overlooks and another obeys, can stand in it.
func (k Keys) secret(t *jwt.Token) (any, error) {
	kid, ok := t.Header["kid"].(string)
	if !ok {
		return nil, errors.New("no kid")
	}
	key, ok := k.byID[kid]
	switch {
	case !ok:
		return nil, errors.New("an unknown kid")
	case !strings.HasPrefix(t.Raw, key.header):
		return nil, errors.New("another header than ours")
	}
	return key.secret(), nil
}

type claims struct {
	Issuer    string           `json:"iss"`
	Audience  string           `json:"aud"`
	Subject   string           `json:"sub"` // the promise's id
	Tenant    string           `json:"ten"`
	Verbs     []promise.Verb   `json:"vrb"`
	IssuedAt  *jwt.NumericDate `json:"iat"`
	ExpiresAt *jwt.NumericDate `json:"exp"`
	ID        string           `json:"jti"`
	restriction
}

// restriction holds the claims that tokens of earlier releases do not have.
type restriction struct {
	Key     string `json:"key,omitempty"` // the API key that asked for the token
	Revoked int64  `json:"rvk,omitempty"` // Token.RevokedAt, in microseconds since 1970
	Body    string `json:"bod,omitempty"` // bodyRaw
}

// bodyRaw is the one value of the claim bod.
const bodyRaw = "raw"

func (t Token) restriction() restriction {
	var r restriction
	if t.KeyID != uuid.Nil {
		r.Key = t.KeyID.String()
	}
	if t.RevokedAt != nil {
		r.Revoked = t.RevokedAt.UnixMicro()
	}
	if t.RawBody {
		r.Body = bodyRaw
	}
	return r
}

// read reads into t what Token.restriction wrote.
func (r restriction) read(t *Token) (err error) {
	if r.Key != "" {
		if t.KeyID, err = promise.ParseID(r.Key); err != nil || t.KeyID == uuid.Nil {
			return errors.New("key is no UUID")
		}
	}
	if r.Revoked != 0 {
		at := time.UnixMicro(r.Revoked).UTC()
		t.RevokedAt = &at
	}
	if r.Body != "" && r.Body != bodyRaw {
		return errors.New("an unknown bod")
	}
	t.RawBody = r.Body == bodyRaw
	return nil
}

// token reads the claims after the parser found them signed and in time.
func (c *claims) token() (Token, error) {
	id, err := promise.ParseID(c.ID)
	if err != nil {
		return Token{}, errors.New("jti is no UUID")
	}
	promiseID, err := promise.ParseID(c.Subject)
	if err != nil {
		return Token{}, errors.New("sub is no UUID")
	}
	t := Token{ID: id, Tenant: c.Tenant, PromiseID: promiseID, Verbs: c.Verbs, ExpiresAt: c.ExpiresAt.UTC()}
	if err := c.read(&t); err != nil {
		return t, err
	}
	return t, t.check()
}

// The rest makes claims what the parser reads; an error is never possible.

func (c *claims) GetExpirationTime() (*jwt.NumericDate, error) { return c.ExpiresAt, nil }
func (c *claims) GetIssuedAt() (*jwt.NumericDate, error)       { return c.IssuedAt, nil }
func (c *claims) GetNotBefore() (*jwt.NumericDate, error)      { return nil, nil }
func (c *claims) GetIssuer() (string, error)                   { return c.Issuer, nil }
func (c *claims) GetSubject() (string, error)                  { return c.Subject, nil }
func (c *claims) GetAudience() (jwt.ClaimStrings, error)       { return jwt.ClaimStrings{c.Audience}, nil }
