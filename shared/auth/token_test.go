package auth_test

import (
	"bytes"
	"crypto"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"hash"
	"log/slog"
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

func parse(t testing.TB, entries ...string) auth.Keys {
	t.Helper()
	keys, err := auth.ParseKeys(strings.Join(entries, ","))
	require.NoError(t, err)
	return keys
}

func entry(kid string, secret []byte) string { return kid + ":" + raw.EncodeToString(secret) }

func sign(t testing.TB, keys auth.Keys, token auth.Token) string {
	t.Helper()
	s, err := keys.Sign(token, now)
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

// refuse checks that the token is refused, and that the error does not tell it.
func refuse(t testing.TB, keys auth.Keys, token string, what ...any) {
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
// by an older version, must stay good.
func TestTokensStayReadable(t *testing.T) {
	t.Parallel()
	keys := parse(t, entry("old", oldSecret))
	want := forge(header, payload, sha256.New, oldSecret)
	require.Equal(t, want, sign(t, keys, good))
	require.True(t, strings.HasPrefix(want, goldenToken+"."))
	got, err := keys.Verify(want, now)
	require.NoError(t, err)
	require.Equal(t, good, got)

	restricted := good
	restricted.KeyID = uuid.MustParse("c1a5f0de-4b1d-4d3b-9a53-5b7d0a6e2f90")
	restricted.RevokedAt = new(now.Add(-time.Microsecond))
	restricted.RawBody = true
	want = forge(header, strings.TrimSuffix(payload, "}")+`,"key":"c1a5f0de-4b1d-4d3b-9a53-5b7d0a6e2f90","rvk":1772366399999999,"bod":"raw"}`,
		sha256.New, oldSecret)
	require.Equal(t, want, sign(t, keys, restricted))
	got, err = keys.Verify(want, now)
	require.NoError(t, err)
	require.Equal(t, restricted, got)
	for _, claim := range []string{
		`"bod":"RAW"`, `"bod":"json"`, `"bod":1`, `"key":"x"`, `"key":"00000000-0000-0000-0000-000000000000"`, `"key":1`, `"rvk":"1"`, `"rvk":1.5`, `"rvk":9223372036854775808`,
	} {
		refuse(t, keys, forge(header, strings.TrimSuffix(payload, "}")+","+claim+"}", sha256.New, oldSecret), claim)
	}
}

func TestRotation(t *testing.T) {
	t.Parallel()
	before := parse(t, entry("old", oldSecret))
	during := parse(t, entry("new", newSecret), entry("old", oldSecret))
	after := parse(t, entry("new", newSecret))
	first, second := sign(t, before, good), sign(t, during, good)
	for _, s := range []string{first, second} {
		got, err := during.Verify(s, now)
		require.NoError(t, err)
		require.Equal(t, good, got)
	}
	head, err := raw.DecodeString(second[:strings.IndexByte(second, '.')])
	require.NoError(t, err)
	require.JSONEq(t, `{"alg":"HS256","kid":"new","typ":"JWT"}`, string(head), "the newest signs")
	_, err = after.Verify(second, now)
	require.NoError(t, err)
	refuse(t, after, first, "its key was taken out")
	refuse(t, before, second, "its key is not there yet")
	refuse(t, auth.Keys{}, first, "no keys")
	refuse(t, parse(t, entry("old", newSecret)), first, "another key under the same kid")
}

func TestExpiry(t *testing.T) {
	t.Parallel()
	keys := parse(t, entry("old", oldSecret))
	s := sign(t, keys, good)
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
	got, err := keys.Verify(sign(t, keys, fraction), now)
	require.NoError(t, err)
	require.Equal(t, now.Add(time.Second), got.ExpiresAt, "never later than was asked")
}

func TestAlgorithmConfusion(t *testing.T) {
	t.Parallel()
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	der, err := x509.MarshalPKIXPublicKey(&rsaKey.PublicKey)
	require.NoError(t, err)
	public := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	keys := parse(t, entry("old", oldSecret), entry("rsa", public))
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
	refuse(t, keys, forge(alg("RS256", "rsa"), payload, sha256.New, public), "an HMAC with the public key, said to be RS256")
	refuse(t, keys, forge(alg("HS256", "old"), payload, sha256.New, public), "an HMAC with a public key that is not the kid's")

	// Swapped after signing: the signature covers the header.
	s := sign(t, keys, good)
	for _, name := range []string{"none", "HS384", "RS256"} {
		refuse(t, keys, raw.EncodeToString([]byte(alg(name, "old")))+s[strings.IndexByte(s, '.'):], name)
	}
}

func TestHeaderMustBeOurs(t *testing.T) {
	t.Parallel()
	keys := parse(t, entry("old", oldSecret), entry("new", newSecret))
	_, err := keys.Verify(forge(header, payload, sha256.New, oldSecret), now)
	require.NoError(t, err)
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
		refuse(t, keys, forge(h, payload, sha256.New, oldSecret), h)
	}
}

func TestClaims(t *testing.T) {
	t.Parallel()
	keys := parse(t, entry("old", oldSecret))
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
			refuse(t, keys, forge(header, change(name, v), sha256.New, oldSecret), "%s %v", name, v)
		}
	}
	for _, p := range []string{`null`, `{}`, `[]`, `1`, ``, payload + payload, payload[:len(payload)-1], "\xff", strings.Repeat("[", 900)} {
		refuse(t, keys, forge(header, p, sha256.New, oldSecret), p)
	}

	// Tampered with, and signed by nobody.
	s := strings.Split(sign(t, keys, good), ".")
	for name, v := range map[string]any{"ten": "demo", "sub": uuid.NewString(), "exp": now.Unix() + 1e6, "vrb": []string{"resolve"}} {
		refuse(t, keys, s[0]+"."+raw.EncodeToString([]byte(change(name, v)))+"."+s[2], name)
	}
	// Another tenant's or promise's token is good: whose it is, the caller compares.
	got, err := keys.Verify(forge(header, change("ten", "demo"), sha256.New, oldSecret), now)
	require.NoError(t, err)
	require.Equal(t, "demo", got.Tenant)
	elsewhere := uuid.New()
	got, err = keys.Verify(forge(header, change("sub", elsewhere.String()), sha256.New, oldSecret), now)
	require.NoError(t, err)
	require.Equal(t, elsewhere, got.PromiseID)
}

func TestOneSpelling(t *testing.T) {
	t.Parallel()
	keys := parse(t, entry("old", oldSecret))
	s := sign(t, keys, good)
	const digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	for i := range s {
		for _, c := range digits + ".=+/ \n\x00" {
			if other := s[:i] + string(c) + s[i+1:]; other != s {
				refuse(t, keys, other, "byte %d is %q", i, c)
			}
		}
		for _, c := range "\n\r =." {
			refuse(t, keys, s[:i]+string(c)+s[i:], "%q before byte %d", c, i)
		}
	}
	// 32 bytes leave 2 bits of the last digit: other values of them decode alike.
	last := strings.IndexByte(digits, s[len(s)-1])
	for bits := 1; bits < 4; bits++ {
		other := s[:len(s)-1] + string(digits[last|bits])
		_, err := raw.DecodeString(other[strings.LastIndexByte(other, '.')+1:])
		require.NoError(t, err, "a decoder that is not strict takes it")
		refuse(t, keys, other)
	}
	for _, other := range []string{s + "=", s + "\n", s + ".", s + "." + s, "Bearer " + s, "", ".", "..", "...", "a.b.c"} {
		refuse(t, keys, other)
	}
}

func TestLongTokensAreNotRead(t *testing.T) {
	t.Parallel()
	keys := parse(t, entry("old", oldSecret))
	padded := func(n int) string {
		return forge(header, payload[:len(payload)-1]+`,"x":"`+strings.Repeat("x", n)+`"}`, sha256.New, oldSecret)
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
	got, err := keys.Verify(sign(t, keys, widest), now)
	require.NoError(t, err, "what can be a slug fits")
	require.Equal(t, widest, got)
	widest.Tenant = strings.Repeat("<", 255)
	_, err = keys.Sign(widest, now)
	require.ErrorContains(t, err, "bytes long", "as \\u003c, it does not: refused while something can be done about it")
}

func TestSignRefuses(t *testing.T) {
	t.Parallel()
	keys := parse(t, entry("old", oldSecret))
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
		s, err := keys.Sign(token, now)
		require.Error(t, err, name)
		require.Empty(t, s)
	}
	_, err := auth.Keys{}.Sign(good, now)
	require.ErrorContains(t, err, "no key")
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
		keys, err := auth.ParseKeys(s)
		require.NoError(t, err)
		_, err = keys.Verify(sign(t, keys, good), now)
		require.NoError(t, err)
	}
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
		keys, err := auth.ParseKeys(s)
		require.Error(t, err, name)
		require.Zero(t, keys)
		require.Regexp(t, `^key \d+`, err.Error(), "it tells the place")
		for _, quoted := range []string{secret[:10], other[:10], string(oldSecret[:10]), string(newSecret[:10])} {
			require.NotContains(t, err.Error(), quoted, name)
		}
	}
}

func TestKeysDoNotShow(t *testing.T) {
	t.Parallel()
	keys := parse(t, entry("old", oldSecret), entry("new", newSecret))
	wrapped := struct {
		Keys   auth.Keys
		hidden *auth.Keys
		inner  auth.Keys
	}{keys, &keys, keys}
	var out bytes.Buffer
	slog.New(slog.NewTextHandler(&out, nil)).Info("x", "keys", keys, "wrapped", wrapped)
	slog.New(slog.NewJSONHandler(&out, nil)).Info("x", "keys", keys, "wrapped", wrapped)
	for _, format := range []string{"%v", "%+v", "%#v", "%s", "%x", "%q", "%d"} {
		fmt.Fprintf(&out, format, keys)
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
