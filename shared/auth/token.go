package auth

import (
	"errors"
	"fmt"
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

	// MaxTokenLength is the maximal length of a promise token, in bytes.
	MaxTokenLength = 2 << 10
)

// ErrTokenRefused is the error of every invalid token. It is wrapped with the cause,
// which is for the log only. The cause does not quote the token.
var ErrTokenRefused = errors.New("promise token refused")

// A Token is the content of a promise token: it authorizes its holder to use Verbs
// on one promise until ExpiresAt.
type Token struct {
	ID        uuid.UUID
	Tenant    string // the tenant's slug
	PromiseID uuid.UUID
	Verbs     []promise.Verb
	ExpiresAt time.Time // in whole seconds; the token is valid before this time, not at it

	APIKeyID  uuid.UUID  // the API key that requested the token, or uuid.Nil
	RevokedAt *time.Time // the last revocation of the promise's tokens before this token was issued, in microseconds; nil if none
	RawBody   bool       // see promise.Principal
}

func (t Token) check() error {
	switch {
	case t.ID == uuid.Nil:
		return errors.New("the token id is missing")
	case promise.CheckName(t.Tenant) != nil:
		return errors.New("the tenant is not a name of 1 to 255 characters")
	case t.PromiseID == uuid.Nil:
		return errors.New("the promise id is missing")
	case len(t.Verbs) == 0:
		return errors.New("the verbs are missing")
	}
	for i, v := range t.Verbs {
		if !v.Valid() || slices.Contains(t.Verbs[:i], v) {
			return errors.New("a verb is unknown or repeated")
		}
	}
	return nil
}

// Sign returns the text of a token that the key's public half verifies. It rounds
// ExpiresAt down to a whole second. It fails if k is the zero SigningKey, if Verify
// would refuse t as invalid or too long, or if the token would already have expired.
func (k SigningKey) Sign(t Token, now time.Time) (string, error) {
	if k.private == nil {
		return "", errors.New("sign promise token: there is no signing key")
	}
	if err := t.check(); err != nil {
		return "", fmt.Errorf("sign promise token: %w", err)
	}
	exp := jwt.NewNumericDate(t.ExpiresAt)
	if !exp.After(now) {
		return "", errors.New("sign promise token: it would already have expired")
	}
	s, err := unsigned(jwt.SigningMethodEdDSA, k.Public().KID, &claims{
		Issuer: issuer, Audience: audience, Subject: t.PromiseID.String(), Tenant: t.Tenant, Verbs: t.Verbs,
		IssuedAt: jwt.NewNumericDate(now), ExpiresAt: exp, ID: t.ID.String(), restriction: t.restriction(),
	}).SignedString(k.private())
	if err != nil {
		return "", fmt.Errorf("sign promise token: %w", err)
	}
	if len(s) > MaxTokenLength {
		return "", fmt.Errorf("sign promise token: it would be %d bytes long; at most %d are allowed", len(s), MaxTokenLength)
	}
	return s, nil
}

func unsigned(method jwt.SigningMethod, kid string, c *claims) *jwt.Token {
	t := jwt.NewWithClaims(method, c)
	t.Header["kid"] = kid
	return t
}

// Verify parses a token that one of the keys signed and that has not expired. Its
// error wraps ErrTokenRefused and the cause. The caller must compare the token's
// tenant and promise with the requested ones.
func (k VerificationKeys) Verify(s string, now time.Time) (Token, error) {
	return verify(s, now, k.find)
}

// verify parses a token and verifies it with the key that find returns for its kid.
func verify(s string, now time.Time, find func(kid string) (tokenKey, error)) (Token, error) {
	t, err := parse(s, now, find)
	if err != nil {
		return Token{}, fmt.Errorf("%w: %w", ErrTokenRefused, err)
	}
	return t, nil
}

func parse(s string, now time.Time, find func(kid string) (tokenKey, error)) (Token, error) {
	if len(s) > MaxTokenLength {
		return Token{}, fmt.Errorf("the token has %d bytes; at most %d are allowed", len(s), MaxTokenLength)
	}
	if strings.ContainsAny(s, lineBreaks) {
		return Token{}, errors.New("the token contains a line break")
	}
	// iat is not checked. It may be in the future if the signer's clock is ahead.
	parser := jwt.NewParser(
		jwt.WithValidMethods([]string{jwt.SigningMethodEdDSA.Alg(), jwt.SigningMethodHS256.Alg()}), jwt.WithStrictDecoding(),
		jwt.WithExpirationRequired(), jwt.WithIssuer(issuer), jwt.WithAudience(audience),
		jwt.WithTimeFunc(func() time.Time { return now }),
	)
	var c claims
	if _, err := parser.ParseWithClaims(s, &c, func(t *jwt.Token) (any, error) { return keyOf(t, find) }); err != nil {
		return Token{}, err
	}
	return c.token()
}

// keyOf returns the key that verifies the token's signature. The kid determines the
// algorithm. The header must equal the one that Sign writes for the kid, byte for
// byte. So it cannot contain a second alg, crit, or any other field that one parser
// ignores and another obeys.
func keyOf(t *jwt.Token, find func(kid string) (tokenKey, error)) (any, error) {
	kid, ok := t.Header["kid"].(string)
	if !ok {
		return nil, errors.New("the kid is missing")
	}
	key, err := find(kid)
	switch {
	case err != nil:
		return nil, err
	case t.Method != key.method:
		return nil, errors.New("the algorithm is not the one of the kid")
	case !strings.HasPrefix(t.Raw, key.header):
		return nil, errors.New("the header is not one that this service writes")
	}
	return key.key(), nil
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

// A restriction holds the claims that tokens of earlier releases do not have.
type restriction struct {
	Key     string `json:"key,omitempty"` // Token.APIKeyID
	Revoked int64  `json:"rvk,omitempty"` // Token.RevokedAt, in microseconds since 1970
	Body    string `json:"bod,omitempty"` // bodyRaw
}

// bodyRaw is the only valid value of the claim bod.
const bodyRaw = "raw"

func (t Token) restriction() restriction {
	var r restriction
	if t.APIKeyID != uuid.Nil {
		r.Key = t.APIKeyID.String()
	}
	if t.RevokedAt != nil {
		r.Revoked = t.RevokedAt.UnixMicro()
	}
	if t.RawBody {
		r.Body = bodyRaw
	}
	return r
}

// read copies the claims into t. It reverses Token.restriction.
func (r restriction) read(t *Token) (err error) {
	if r.Key != "" {
		if t.APIKeyID, err = promise.ParseID(r.Key); err != nil || t.APIKeyID == uuid.Nil {
			return errors.New("the claim key is not a UUID")
		}
	}
	if r.Revoked != 0 {
		at := time.UnixMicro(r.Revoked).UTC()
		t.RevokedAt = &at
	}
	if r.Body != "" && r.Body != bodyRaw {
		return errors.New("the claim bod is unknown")
	}
	t.RawBody = r.Body == bodyRaw
	return nil
}

// token returns the Token of claims that the parser has verified.
func (c *claims) token() (Token, error) {
	id, err := promise.ParseID(c.ID)
	if err != nil {
		return Token{}, errors.New("the claim jti is not a UUID")
	}
	promiseID, err := promise.ParseID(c.Subject)
	if err != nil {
		return Token{}, errors.New("the claim sub is not a UUID")
	}
	t := Token{ID: id, Tenant: c.Tenant, PromiseID: promiseID, Verbs: c.Verbs, ExpiresAt: c.ExpiresAt.UTC()}
	if err := c.read(&t); err != nil {
		return t, err
	}
	return t, t.check()
}

// The methods below implement jwt.Claims. Their error is always nil.

func (c *claims) GetExpirationTime() (*jwt.NumericDate, error) { return c.ExpiresAt, nil }
func (c *claims) GetIssuedAt() (*jwt.NumericDate, error)       { return c.IssuedAt, nil }
func (c *claims) GetNotBefore() (*jwt.NumericDate, error)      { return nil, nil }
func (c *claims) GetIssuer() (string, error)                   { return c.Issuer, nil }
func (c *claims) GetSubject() (string, error)                  { return c.Subject, nil }
func (c *claims) GetAudience() (jwt.ClaimStrings, error)       { return jwt.ClaimStrings{c.Audience}, nil }
