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

	// MaxTokenLength is the limit of a promise token, in bytes.
	MaxTokenLength = 2 << 10
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

	APIKeyID  uuid.UUID  // the API key that asked for the token; uuid.Nil: none did
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

// Sign writes a token that the key's public half verifies. It cuts a part of a
// second of ExpiresAt off. It fails if there is no key, if the token would be
// refused, and if it would already have expired.
func (k SigningKey) Sign(t Token, now time.Time) (string, error) {
	if k.private == nil {
		return "", errors.New("sign promise token: there is no key")
	}
	if err := t.check(); err != nil {
		return "", fmt.Errorf("sign promise token: %w", err)
	}
	exp := jwt.NewNumericDate(t.ExpiresAt)
	if !exp.After(now) {
		return "", errors.New("sign promise token: it expires before it is made")
	}
	s, err := unsigned(jwt.SigningMethodEdDSA, k.Public().KID, &claims{
		Issuer: issuer, Audience: audience, Subject: t.PromiseID.String(), Tenant: t.Tenant, Verbs: t.Verbs,
		IssuedAt: jwt.NewNumericDate(now), ExpiresAt: exp, ID: t.ID.String(), restriction: t.restriction(),
	}).SignedString(k.private())
	if err != nil {
		return "", fmt.Errorf("sign promise token: %w", err)
	}
	if len(s) > MaxTokenLength {
		return "", fmt.Errorf("sign promise token: it would be %d bytes long", len(s))
	}
	return s, nil
}

func unsigned(method jwt.SigningMethod, kid string, c *claims) *jwt.Token {
	t := jwt.NewWithClaims(method, c)
	t.Header["kid"] = kid
	return t
}

// Verify reads a token that one of the keys signed and that has not expired. Its
// error is ErrTokenRefused, wrapped with the cause. The caller must compare the
// token's tenant and promise with its own.
func (k VerificationKeys) Verify(s string, now time.Time) (Token, error) {
	return verify(s, now, k.find)
}

// verify reads a token with the key that find returns for its kid.
func verify(s string, now time.Time, find func(kid string) (tokenKey, error)) (Token, error) {
	t, err := parse(s, now, find)
	if err != nil {
		return Token{}, fmt.Errorf("%w: %w", ErrTokenRefused, err)
	}
	return t, nil
}

func parse(s string, now time.Time, find func(kid string) (tokenKey, error)) (Token, error) {
	if len(s) > MaxTokenLength {
		return Token{}, fmt.Errorf("%d bytes", len(s))
	}
	if strings.ContainsAny(s, lineBreaks) {
		return Token{}, errors.New("a line break within")
	}
	// iat may lie ahead: clocks differ, and a fresh token would be refused.
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

// keyOf returns what verifies the token's signature. The kid fixes the algorithm.
// The header must be the one that Sign writes for the kid, byte for byte: a second
// alg, crit, or anything else that one reader overlooks and another obeys cannot
// be in it.
func keyOf(t *jwt.Token, find func(kid string) (tokenKey, error)) (any, error) {
	kid, ok := t.Header["kid"].(string)
	if !ok {
		return nil, errors.New("no kid")
	}
	key, err := find(kid)
	switch {
	case err != nil:
		return nil, err
	case t.Method != key.method:
		return nil, errors.New("another algorithm than its key's")
	case !strings.HasPrefix(t.Raw, key.header):
		return nil, errors.New("another header than ours")
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

// read reads into t what Token.restriction wrote.
func (r restriction) read(t *Token) (err error) {
	if r.Key != "" {
		if t.APIKeyID, err = promise.ParseID(r.Key); err != nil || t.APIKeyID == uuid.Nil {
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
