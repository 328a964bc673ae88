package auth_test

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"hash"
	"log/slog"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/auth"
	"github.com/flovyn/promises/shared/promise"
)

var (
	now       = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	oldSecret = bytes.Repeat([]byte("o"), 32)
	newSecret = bytes.Repeat([]byte("n"), 48)
	raw       = base64.RawURLEncoding
	good      = auth.Token{
		ID: uuid.MustParse("0a000000-0000-4000-8000-000000000001"), Tenant: "acme",
		PromiseID: uuid.MustParse("7d9f1f3a-3c1e-4e5b-8a57-0c2f6f1f4a11"),
		Verbs:     []promise.Verb{promise.VerbResolve, promise.VerbReject}, ExpiresAt: now.Add(time.Hour),
	}
)

const (
	header  = `{"alg":"HS256","kid":"old","typ":"JWT"}`
	payload = `{"iss":"promises","aud":"promise","sub":"7d9f1f3a-3c1e-4e5b-8a57-0c2f6f1f4a11","ten":"acme",` +
		`"vrb":["resolve","reject"],"iat":1772366400,"exp":1772370000,"jti":"0a000000-0000-4000-8000-000000000001"}`
	goldenToken = "eyJhbGciOiJIUzI1NiIsImtpZCI6Im9sZCIsInR5cCI6IkpXVCJ9"
)

func parse(t testing.TB, entries ...string) auth.VerificationKeys {
	t.Helper()
	keys, err := auth.ParseLegacySecrets(strings.Join(entries, ","))
	require.NoError(t, err)
	return keys
}

func entry(kid string, secret []byte) string { return kid + ":" + raw.EncodeToString(secret) }

// Two signing keys.
var oldPrivate, newPrivate = ed25519.NewKeyFromSeed(oldSecret), ed25519.NewKeyFromSeed(newSecret[:32])

func signingKey(t testing.TB, private ed25519.PrivateKey) auth.SigningKey {
	t.Helper()
	key, err := auth.ParseSigningKey("ed25519-private:" + raw.EncodeToString(private.Seed()))
	require.NoError(t, err)
	return key
}

// kid is made here as the database's CHECK makes it.
func kid(private ed25519.PrivateKey) string {
	sum := sha256.Sum256(private.Public().(ed25519.PublicKey))
	return "ed25519:" + hex.EncodeToString(sum[:8])
}

func public(t testing.TB, signing ...auth.SigningKey) auth.VerificationKeys {
	t.Helper()
	var rows []promise.SigningKey
	for _, key := range signing {
		rows = append(rows, key.Public())
	}
	keys, err := auth.ParsePublicKeys(rows)
	require.NoError(t, err)
	return keys
}

func sign(t testing.TB, key auth.SigningKey, token auth.Token) string {
	t.Helper()
	s, err := key.Sign(token, now)
	require.NoError(t, err)
	return s
}

// forge writes a token of any header and payload, with an HMAC of any hash.
func forge(header, payload string, h func() hash.Hash, secret []byte) string {
	text := raw.EncodeToString([]byte(header)) + "." + raw.EncodeToString([]byte(payload))
	mac := hmac.New(h, secret)
	mac.Write([]byte(text))
	return text + "." + raw.EncodeToString(mac.Sum(nil))
}

// forgeSigned writes a token of any header and payload, signed with Ed25519.
func forgeSigned(header, payload string, private ed25519.PrivateKey) string {
	text := raw.EncodeToString([]byte(header)) + "." + raw.EncodeToString([]byte(payload))
	return text + "." + raw.EncodeToString(ed25519.Sign(private, []byte(text)))
}

// kind is one of the two kinds of tokens, with two keys, "old" and "new".
type kind struct {
	header string // of "old"
	keys   auth.VerificationKeys
	forge  func(header, payload string) string // with "old"
	ours   func(header string) string          // a header of the tests for this kind
}

func kinds(t testing.TB) map[string]kind {
	t.Helper()
	signed := strings.NewReplacer(`"HS256"`, `"EdDSA"`, `"old"`, strconv.Quote(kid(oldPrivate)), `"new"`, strconv.Quote(kid(newPrivate)),
		`"unknown"`, `"ed25519:0123456789abcdef"`)
	return map[string]kind{
		"Ed25519": {signed.Replace(header), public(t, signingKey(t, oldPrivate), signingKey(t, newPrivate)), func(header, payload string) string {
			return forgeSigned(header, payload, oldPrivate)
		}, signed.Replace},
		"HMAC": {header, parse(t, entry("old", oldSecret), entry("new", newSecret)), func(header, payload string) string {
			return forge(header, payload, sha256.New, oldSecret)
		}, func(header string) string { return header }},
	}
}

// refuse checks that the token is refused, and that the error does not tell it.
func refuse(t testing.TB, keys auth.VerificationKeys, token string, what ...any) {
	t.Helper()
	got, err := keys.Verify(token, now)
	require.ErrorIs(t, err, auth.ErrTokenRefused, what...)
	require.Zero(t, got)
	for part := range strings.SplitSeq(token, ".") {
		if len(part) > 8 {
			require.NotContains(t, err.Error(), part, what...)
		}
	}
}

// TestTokensStayReadable holds the form on the wire: tokens that are out, signed
// by an older version, must stay valid.
func TestTokensStayReadable(t *testing.T) {
	t.Parallel()
	restricted := good
	restricted.APIKeyID = uuid.MustParse("c1a5f0de-4b1d-4d3b-9a53-5b7d0a6e2f90")
	restricted.RevokedAt = new(now.Add(-time.Microsecond))
	restricted.RawBody = true
	restrictedPayload := strings.TrimSuffix(payload, "}") + `,"key":"c1a5f0de-4b1d-4d3b-9a53-5b7d0a6e2f90","rvk":1772366399999999,"bod":"raw"}`
	for name, k := range kinds(t) {
		for _, c := range []struct {
			payload string
			want    auth.Token
		}{{payload, good}, {restrictedPayload, restricted}} {
			text := k.forge(k.header, c.payload)
			got, err := k.keys.Verify(text, now)
			require.NoError(t, err, name)
			require.Equal(t, c.want, got)
			if name == "Ed25519" {
				require.Equal(t, text, sign(t, signingKey(t, oldPrivate), c.want))
			} else {
				require.True(t, strings.HasPrefix(text, goldenToken+"."))
			}
		}
		for _, claim := range []string{
			`"bod":"RAW"`, `"bod":"json"`, `"bod":1`, `"key":"x"`, `"key":"00000000-0000-0000-0000-000000000000"`, `"key":1`, `"rvk":"1"`, `"rvk":1.5`, `"rvk":9223372036854775808`,
		} {
			refuse(t, k.keys, k.forge(k.header, strings.TrimSuffix(payload, "}")+","+claim+"}"), claim)
		}
	}
	require.Equal(t, kid(oldPrivate), signingKey(t, oldPrivate).Public().KID)
}

func TestRotation(t *testing.T) {
	t.Parallel()
	older, newer := signingKey(t, oldPrivate), signingKey(t, newPrivate)
	during := public(t, newer, older)
	first, second := sign(t, older, good), sign(t, newer, good)
	for _, s := range []string{first, second} {
		got, err := during.Verify(s, now)
		require.NoError(t, err)
		require.Equal(t, good, got)
	}
	_, err := public(t, newer).Verify(second, now)
	require.NoError(t, err)
	refuse(t, public(t, newer), first, "its key is gone")
	refuse(t, public(t, older), second, "its key is not there yet")
	refuse(t, auth.VerificationKeys{}, first, "no keys")
	refuse(t, parse(t, entry("old", newSecret)), forge(header, payload, sha256.New, oldSecret), "another key under the same kid")
	require.NotEqual(t, auth.NewSigningKey().Text(), auth.NewSigningKey().Text())
}

func TestExpiry(t *testing.T) {
	t.Parallel()
	keys, key := public(t, signingKey(t, oldPrivate)), signingKey(t, oldPrivate)
	s := sign(t, key, good)
	_, err := keys.Verify(s, good.ExpiresAt.Add(-time.Nanosecond))
	require.NoError(t, err)
	for _, late := range []time.Duration{0, time.Second, time.Hour} {
		_, err = keys.Verify(s, good.ExpiresAt.Add(late))
		require.ErrorIs(t, err, auth.ErrTokenRefused)
		require.ErrorIs(t, err, jwt.ErrTokenExpired, "the cause is for the log")
	}
	_, err = keys.Verify(s, now.Add(-time.Minute))
	require.NoError(t, err, "the clock of whoever signed may be ahead")

	fraction := good
	fraction.ExpiresAt = now.Add(1900 * time.Millisecond).In(time.FixedZone("", 3600))
	got, err := keys.Verify(sign(t, key, fraction), now)
	require.NoError(t, err)
	require.Equal(t, now.Add(time.Second), got.ExpiresAt, "never later than was asked")
}

func TestAlgorithmConfusion(t *testing.T) {
	t.Parallel()
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	der, err := x509.MarshalPKIXPublicKey(&rsaKey.PublicKey)
	require.NoError(t, err)
	rsaPublic := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	keys := parse(t, entry("old", oldSecret), entry("rsa", rsaPublic))
	alg := func(name, kid string) string { return fmt.Sprintf(`{"alg":%q,"kid":%q,"typ":"JWT"}`, name, kid) }

	for _, name := range []string{"none", "None", "NONE", "nOnE", "", "HS384", "HS512", "RS256", "ES256", "EdDSA", "hs256", "HS256 "} {
		for _, h := range []func() hash.Hash{sha256.New, sha512.New384, sha512.New} {
			refuse(t, keys, forge(alg(name, "old"), payload, h, oldSecret), name)
		}
		unsigned := forge(alg(name, "old"), payload, sha256.New, oldSecret)
		refuse(t, keys, unsigned[:strings.LastIndexByte(unsigned, '.')+1], name+" with no signature")
		refuse(t, keys, unsigned[:strings.LastIndexByte(unsigned, '.')], name+" in two parts")
	}
	refuse(t, keys, forge(header, payload, sha512.New384, oldSecret), "HS384 said to be HS256")

	text := raw.EncodeToString([]byte(alg("RS256", "rsa"))) + "." + raw.EncodeToString([]byte(payload))
	digest := sha256.Sum256([]byte(text))
	signature, err := rsa.SignPKCS1v15(rand.Reader, rsaKey, crypto.SHA256, digest[:])
	require.NoError(t, err)
	refuse(t, keys, text+"."+raw.EncodeToString(signature), "RS256")
	refuse(t, keys, forge(alg("RS256", "rsa"), payload, sha256.New, rsaPublic), "an HMAC with the public key, said to be RS256")
	refuse(t, keys, forge(alg("HS256", "old"), payload, sha256.New, rsaPublic), "an HMAC with a public key that is not the kid's")

	// Swapped after signing: the signature covers the header.
	s := forge(header, payload, sha256.New, oldSecret)
	for _, name := range []string{"none", "HS384", "RS256", "EdDSA"} {
		refuse(t, keys, raw.EncodeToString([]byte(alg(name, "old")))+s[strings.IndexByte(s, '.'):], name)
	}
}

// The kid fixes the algorithm, for a process that has keys of both kinds.
func TestAlgorithmOfTheKid(t *testing.T) {
	t.Parallel()
	key := signingKey(t, oldPrivate)
	publicKey := []byte(oldPrivate.Public().(ed25519.PublicKey))
	secret := ed25519.NewKeyFromSeed(newSecret[:32]).Seed()
	verifier := newVerifier(t, parse(t, entry("old", oldSecret), entry("public", publicKey), entry("seed", secret)), key.Public(), legacyRow)
	verify := func(s string) error {
		_, err := verifier.Verify(t.Context(), s, now)
		return err
	}
	alg := func(name, kid string) string { return fmt.Sprintf(`{"alg":%q,"kid":%q,"typ":"JWT"}`, name, kid) }
	require.NoError(t, verify(forgeSigned(alg("EdDSA", kid(oldPrivate)), payload, oldPrivate)))
	require.NoError(t, verify(forge(alg("HS256", "old"), payload, sha256.New, oldSecret)))

	text := func(header string) string {
		return raw.EncodeToString([]byte(header)) + "." + raw.EncodeToString([]byte(payload))
	}
	for what, s := range map[string]string{
		"an HMAC with the public key":                                forge(alg("HS256", kid(oldPrivate)), payload, sha256.New, publicKey),
		"an HMAC with the public key, said to be EdDSA":              forge(alg("EdDSA", kid(oldPrivate)), payload, sha256.New, publicKey),
		"an HMAC with a legacy secret under the kid of a pair":       forge(alg("HS256", kid(oldPrivate)), payload, sha256.New, oldSecret),
		"an HMAC of the text of the public key":                      forge(alg("HS256", kid(oldPrivate)), payload, sha256.New, []byte(raw.EncodeToString(publicKey))),
		"a signature under the kid of a secret":                      forgeSigned(alg("EdDSA", "old"), payload, oldPrivate),
		"a signature said to be HS256":                               forgeSigned(alg("HS256", kid(oldPrivate)), payload, oldPrivate),
		"a signature said to be HS256, under the kid of a secret":    forgeSigned(alg("HS256", "old"), payload, oldPrivate),
		"a signature by a pair made of a secret, under its kid":      forgeSigned(alg("EdDSA", "seed"), payload, newPrivate),
		"a signature by a pair made of a secret":                     forgeSigned(alg("EdDSA", kid(newPrivate)), payload, newPrivate),
		"a signature by another pair":                                forgeSigned(alg("EdDSA", kid(oldPrivate)), payload, newPrivate),
		"no signature":                                               text(alg("none", kid(oldPrivate))) + ".",
		"no signature, said to be EdDSA":                             text(alg("EdDSA", kid(oldPrivate))) + ".",
		"zeros":                                                      text(alg("EdDSA", kid(oldPrivate))) + "." + raw.EncodeToString(make([]byte, 64)),
		"the kid of the row that has no key":                         forge(alg("HS256", promise.LegacyKID), payload, sha256.New, nil),
		"an HMAC with the seed, which is the whole secret of a pair": forge(alg("HS256", kid(oldPrivate)), payload, sha256.New, oldPrivate.Seed()),
		"the signature's algorithm by another name":                  forgeSigned(alg("Ed25519", kid(oldPrivate)), payload, oldPrivate),
		"a kid in capitals":                                          forgeSigned(alg("EdDSA", strings.ToUpper(kid(oldPrivate))), payload, oldPrivate),
		"a kid without what says its kind":                           forgeSigned(alg("EdDSA", strings.TrimPrefix(kid(oldPrivate), "ed25519:")), payload, oldPrivate),
	} {
		require.ErrorIs(t, verify(s), auth.ErrTokenRefused, what)
	}
	// A secret that happens to be a public key is a secret all the same.
	require.NoError(t, verify(forge(alg("HS256", "public"), payload, sha256.New, publicKey)))
	require.ErrorIs(t, verify(forgeSigned(alg("EdDSA", "public"), payload, oldPrivate)), auth.ErrTokenRefused)
}

func TestHeaderMustBeOurs(t *testing.T) {
	t.Parallel()
	for _, k := range kinds(t) {
		_, err := k.keys.Verify(k.forge(k.header, payload), now)
		require.NoError(t, err)
	}
	for _, h := range []string{
		`{"alg":"HS256","typ":"JWT"}`,
		`{"alg":"HS256","kid":null,"typ":"JWT"}`,
		`{"alg":"HS256","kid":1,"typ":"JWT"}`,
		`{"alg":"HS256","kid":["old"],"typ":"JWT"}`,
		`{"alg":"HS256","kid":{"kid":"old"},"typ":"JWT"}`,
		`{"alg":"HS256","kid":"unknown","typ":"JWT"}`,
		`{"alg":"HS256","kid":"","typ":"JWT"}`,
		`{"alg":"HS256","KID":"old","typ":"JWT"}`,
		`{"alg":"HS256","kid":"new","kid":"old","typ":"JWT"}`,
		`{"alg":"none","alg":"HS256","kid":"old","typ":"JWT"}`,
		`{"alg":"HS256","kid":"old","kid":"old","typ":"JWT"}`,
		`{"alg":"HS256","crit":["x"],"kid":"old","typ":"JWT"}`,
		`{"alg":"HS256","jwk":{"kty":"oct","k":"AA"},"kid":"old","typ":"JWT"}`,
		`{"alg":["HS256"],"kid":"old","typ":"JWT"}`,
		`{"header":{"alg":"HS256","kid":"old","typ":"JWT"}}`,
		`[{"alg":"HS256","kid":"old","typ":"JWT"}]`,
		` {"alg":"HS256","kid":"old","typ":"JWT"}`,
		`{"kid":"old","alg":"HS256","typ":"JWT"}`,
		`null`, `{}`, `1`, strings.Repeat("[", 500),
	} {
		for _, k := range kinds(t) {
			refuse(t, k.keys, k.forge(k.ours(h), payload), h)
		}
	}
}

func TestClaims(t *testing.T) {
	t.Parallel()
	key := signingKey(t, oldPrivate)
	k := kinds(t)["Ed25519"]
	keys := k.keys
	change := func(name string, value any) string {
		var c map[string]any
		require.NoError(t, json.Unmarshal([]byte(payload), &c))
		if c[name] = value; value == nil {
			delete(c, name)
		}
		b, err := json.Marshal(c)
		require.NoError(t, err)
		return string(b)
	}
	for _, k := range kinds(t) {
		for name, values := range map[string][]any{
			"iss": {nil, "", "Promises", "https://example.com", []string{"promises"}},
			"aud": {nil, "", "promises", []string{"promise"}, []string{}},
			"sub": {nil, "", uuid.Nil.String(), "x", good.PromiseID.URN(), strings.ReplaceAll(good.PromiseID.String(), "-", ""), 1},
			"jti": {nil, "", uuid.Nil.String(), "x", "{" + good.ID.String() + "}"},
			"ten": {nil, "", "a\x00b", strings.Repeat("a", 256), 1},
			"vrb": {nil, []string{}, []string{"cancel"}, []string{"resolve", "x"}, []string{"resolve", "resolve"}, []any{nil}, "resolve", []string{"Resolve"}},
			"exp": {nil, now.Unix(), now.Unix() - 1, 0, -1, 1e300, "tomorrow", map[string]int{}},
		} {
			for _, v := range values {
				refuse(t, k.keys, k.forge(k.header, change(name, v)), "%s %v", name, v)
			}
		}
		for _, p := range []string{`null`, `{}`, `[]`, `1`, ``, payload + payload, payload[:len(payload)-1], "\xff", strings.Repeat("[", 900)} {
			refuse(t, k.keys, k.forge(k.header, p), p)
		}
	}

	// Tampered with, and signed by nobody.
	s := strings.Split(sign(t, key, good), ".")
	for name, v := range map[string]any{"ten": "demo", "sub": uuid.NewString(), "exp": now.Unix() + 1e6, "vrb": []string{"resolve"}} {
		refuse(t, keys, s[0]+"."+raw.EncodeToString([]byte(change(name, v)))+"."+s[2], name)
	}
	// Another tenant's or promise's token is good: whose it is, the caller compares.
	got, err := keys.Verify(k.forge(k.header, change("ten", "demo")), now)
	require.NoError(t, err)
	require.Equal(t, "demo", got.Tenant)
	elsewhere := uuid.New()
	got, err = keys.Verify(k.forge(k.header, change("sub", elsewhere.String())), now)
	require.NoError(t, err)
	require.Equal(t, elsewhere, got.PromiseID)
}

func TestOneSpelling(t *testing.T) {
	t.Parallel()
	const digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	spare := map[string]int{"Ed25519": 16, "HMAC": 4}
	for name, k := range kinds(t) {
		s := k.forge(k.header, payload)
		for i := range s {
			for _, c := range digits + ".=+/ \n\x00" {
				if other := s[:i] + string(c) + s[i+1:]; other != s {
					refuse(t, k.keys, other, "byte %d is %q", i, c)
				}
			}
			for _, c := range "\n\r =." {
				refuse(t, k.keys, s[:i]+string(c)+s[i:], "%q before byte %d", c, i)
			}
		}
		// 32 bytes leave 2 bits of the last digit, 64 bytes 4: other values of them decode alike.
		last := strings.IndexByte(digits, s[len(s)-1])
		for bits := 1; bits < spare[name]; bits++ {
			other := s[:len(s)-1] + string(digits[last|bits])
			_, err := raw.DecodeString(other[strings.LastIndexByte(other, '.')+1:])
			require.NoError(t, err, "a decoder that is not strict takes it")
			refuse(t, k.keys, other)
		}
		for _, other := range []string{s + "=", s + "\n", s + ".", s + "." + s, "Bearer " + s, "", ".", "..", "...", "a.b.c"} {
			refuse(t, k.keys, other)
		}
	}
}

func TestLongTokensAreNotRead(t *testing.T) {
	t.Parallel()
	k, key := kinds(t)["Ed25519"], signingKey(t, oldPrivate)
	keys := k.keys
	padded := func(n int) string {
		return k.forge(k.header, payload[:len(payload)-1]+`,"x":"`+strings.Repeat("x", n)+`"}`)
	}
	long := 0
	for n := 1000; n < 1400; n++ {
		s := padded(n)
		_, err := keys.Verify(s, now)
		require.Equal(t, len(s) <= auth.MaxTokenLength, err == nil, "%d bytes", len(s))
		if err != nil {
			long++
		}
	}
	require.NotZero(t, long)
	refuse(t, keys, strings.Repeat("a.", 1<<20))

	widest := good
	widest.Tenant = strings.Repeat("𐀀", 255)
	got, err := keys.Verify(sign(t, key, widest), now)
	require.NoError(t, err, "what can be a slug fits")
	require.Equal(t, widest, got)
	widest.Tenant = strings.Repeat("<", 255)
	_, err = key.Sign(widest, now)
	require.ErrorContains(t, err, "bytes long", "as \\u003c, it does not: refused while something can be done about it")
}

func TestSignRefuses(t *testing.T) {
	t.Parallel()
	key := signingKey(t, oldPrivate)
	for name, spoil := range map[string]func(*auth.Token){
		"no id":         func(t *auth.Token) { t.ID = uuid.Nil },
		"no tenant":     func(t *auth.Token) { t.Tenant = "" },
		"tenant":        func(t *auth.Token) { t.Tenant = "\xff" },
		"no promise":    func(t *auth.Token) { t.PromiseID = uuid.Nil },
		"no verbs":      func(t *auth.Token) { t.Verbs = nil },
		"unknown verb":  func(t *auth.Token) { t.Verbs = []promise.Verb{"cancel"} },
		"verb twice":    func(t *auth.Token) { t.Verbs = []promise.Verb{"reject", "reject"} },
		"no expiry":     func(t *auth.Token) { t.ExpiresAt = time.Time{} },
		"expired":       func(t *auth.Token) { t.ExpiresAt = now },
		"under 1 s off": func(t *auth.Token) { t.ExpiresAt = now.Add(999 * time.Millisecond) },
	} {
		token := good
		spoil(&token)
		s, err := key.Sign(token, now)
		require.Error(t, err, name)
		require.Empty(t, s)
	}
	_, err := auth.SigningKey{}.Sign(good, now)
	require.ErrorContains(t, err, "no signing key")
}

func TestParseKeys(t *testing.T) {
	t.Parallel()
	secret := raw.EncodeToString(oldSecret)
	other := raw.EncodeToString(newSecret)
	padded := base64.URLEncoding.EncodeToString(oldSecret)
	for _, s := range []string{
		"k:" + secret, "k:" + padded, " k:" + secret + "\n", "a:" + secret + ", b:" + other,
		strings.Repeat("k", 64) + ":" + secret, "A-z_0.9:" + secret, secret, padded + "," + other,
	} {
		_, err := auth.ParseLegacySecrets(s)
		require.NoError(t, err)
	}
	keys := parse(t, "a:"+secret, "old:"+other)
	_, err := keys.Verify(forge(header, payload, sha256.New, newSecret), now)
	require.NoError(t, err)
	for name, s := range map[string]string{
		"nothing":          "",
		"empty kid":        ":" + secret,
		"long kid":         strings.Repeat("k", 65) + ":" + secret,
		"space in kid":     "a b:" + secret,
		"line in kid":      "a\nb:" + secret,
		"end of line":      "a\n:" + secret,
		"no secret":        "k:",
		"31 bytes":         "k:" + raw.EncodeToString(oldSecret[:31]),
		"swapped":          secret + ":k",
		"standard base64":  "k:" + base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{0xfb}, 32)),
		"trailing bits":    "k:" + secret[:42] + "x",
		"line in secret":   "k:" + secret[:20] + "\n" + secret[20:],
		"too much padding": "k:" + padded + "=",
		"wrong padding":    "k:" + other + "==",
		"only padding":     "k:==",
		"two colons":       "k:" + secret + ":" + secret,
		"trailing comma":   "k:" + secret + ",",
		"same kid":         "k:" + secret + ",k:" + other,
		"same secret":      "a:" + secret + ",b:" + padded,
		"bad second":       "a:" + secret + ",b:" + other + "!",
	} {
		keys, err := auth.ParseLegacySecrets(s)
		require.Error(t, err, name)
		require.Zero(t, keys)
		require.Regexp(t, `^secret \d+`, err.Error(), "the position of the secret")
		for _, quoted := range []string{secret[:10], other[:10], string(oldSecret[:10]), string(newSecret[:10])} {
			require.NotContains(t, err.Error(), quoted, name)
		}
	}
}

func TestKeysDoNotShow(t *testing.T) {
	t.Parallel()
	keys, signing := parse(t, entry("old", oldSecret), entry("new", newSecret)), signingKey(t, oldPrivate)
	wrapped := struct {
		Keys    auth.VerificationKeys
		hidden  *auth.VerificationKeys
		inner   auth.VerificationKeys
		Signing auth.SigningKey
		signing *auth.SigningKey
	}{keys, &keys, keys, signing, &signing}
	var out bytes.Buffer
	slog.New(slog.NewTextHandler(&out, nil)).Info("x", "keys", keys, "signing", signing, "wrapped", wrapped)
	slog.New(slog.NewJSONHandler(&out, nil)).Info("x", "keys", keys, "signing", signing, "wrapped", wrapped)
	for _, format := range []string{"%v", "%+v", "%#v", "%s", "%x", "%q", "%d"} {
		fmt.Fprintf(&out, format, keys)
		fmt.Fprintf(&out, format, signing)
		fmt.Fprintf(&out, format, &keys)
		fmt.Fprintf(&out, format, wrapped)
	}
	for _, secret := range [][]byte{oldSecret, newSecret} {
		for _, shown := range []string{
			string(secret[:8]), raw.EncodeToString(secret)[:8], fmt.Sprintf("%x", secret[:4]), fmt.Sprintf("%d %[1]d", secret[0]),
			fmt.Sprintf("0x%x, 0x%x", secret[0], secret[1]),
		} {
			require.NotContains(t, out.String(), shown)
		}
	}
}

// The text of a signing key has one spelling, and an error quotes nothing of it.
func TestParseSigningKey(t *testing.T) {
	t.Parallel()
	key := auth.NewSigningKey()
	text := key.Text()
	require.Regexp(t, "^"+auth.PrivateKeyPattern+"$", text)
	for _, s := range []string{text, text + "\n", " " + text} {
		again, err := auth.ParseSigningKey(s)
		require.NoError(t, err)
		require.Equal(t, key.Public(), again.Public())
		require.Equal(t, text, again.Text())
	}
	encoded := strings.TrimPrefix(text, "ed25519-private:")
	for what, s := range map[string]string{
		"nothing":       "",
		"no prefix":     encoded,
		"a public kid":  "ed25519:" + encoded,
		"31 bytes":      "ed25519-private:" + raw.EncodeToString(oldSecret[:31]),
		"64 bytes":      "ed25519-private:" + raw.EncodeToString(oldPrivate),
		"padding":       text + "=",
		"trailing bits": "ed25519-private:" + strings.Repeat("A", 42) + "B",
		"a line within": "ed25519-private:" + encoded[:20] + "\n" + encoded[20:],
		"another":       text + "," + text,
		"a legacy key":  entry("k", oldSecret),
	} {
		bad, err := auth.ParseSigningKey(s)
		require.Error(t, err, what)
		require.NotContains(t, err.Error(), encoded[:8])
		_, err = bad.Sign(good, now)
		require.Error(t, err)
	}
}

// A row whose kid does not follow from its key verifies nothing, and a row of another kind is left to a later release.
func TestPublicKeys(t *testing.T) {
	t.Parallel()
	key := signingKey(t, oldPrivate)
	row := key.Public()
	keys, err := auth.ParsePublicKeys([]promise.SigningKey{
		{KID: kid(newPrivate), PublicKey: row.PublicKey}, {KID: "mldsa:1", PublicKey: make([]byte, 1952)}, {KID: row.KID, PublicKey: row.PublicKey[:31]},
		legacyRow, {},
	})
	require.NoError(t, err)
	refuse(t, keys, sign(t, key, good))
	refuse(t, keys, forgeSigned(fmt.Sprintf(`{"alg":"EdDSA","kid":%q,"typ":"JWT"}`, kid(newPrivate)), payload, oldPrivate))
}
