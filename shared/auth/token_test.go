package auth_test

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
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

// goldenHeader is the encoded header of a legacy token.
const goldenHeader = "eyJhbGciOiJIUzI1NiIsImtpZCI6Im9sZCIsInR5cCI6IkpXVCJ9"

// The encoding must not change, because tokens that an earlier release signed must stay valid.
func TestTokensStayReadable(t *testing.T) {
	t.Parallel()
	restricted := validToken
	restricted.APIKeyID = uuid.MustParse("c1a5f0de-4b1d-4d3b-9a53-5b7d0a6e2f90")
	restricted.RevokedAt = new(now.Add(-time.Microsecond))
	restricted.RawBody = true
	restrictedPayload := strings.TrimSuffix(payload, "}") + `,"key":"c1a5f0de-4b1d-4d3b-9a53-5b7d0a6e2f90","rvk":1772366399999999,"bod":"raw"}`
	for name, k := range kinds(t) {
		for _, c := range []struct {
			name    string
			payload string
			want    auth.Token
		}{{"required claims", payload, validToken}, {"all claims", restrictedPayload, restricted}} {
			t.Run(name+" with "+c.name, func(t *testing.T) {
				text := k.forge(k.header, c.payload)
				got, err := k.keys.Verify(text, now)
				require.NoError(t, err)
				require.Equal(t, c.want, got)
				if name == "Ed25519" {
					require.Equal(t, text, sign(t, signingKey(t, oldPrivate), c.want))
				} else {
					require.True(t, strings.HasPrefix(text, goldenHeader+"."))
				}
			})
		}
		for _, claim := range []string{
			`"bod":"RAW"`, `"bod":"json"`, `"bod":1`, `"key":"x"`, `"key":"00000000-0000-0000-0000-000000000000"`, `"key":1`, `"rvk":"1"`, `"rvk":1.5`, `"rvk":9223372036854775808`,
		} {
			t.Run(name+" refuses "+claim, func(t *testing.T) {
				requireRefused(t, k.keys, k.forge(k.header, strings.TrimSuffix(payload, "}")+","+claim+"}"))
			})
		}
	}
	t.Run("the kid is the one of the database", func(t *testing.T) {
		require.Equal(t, kid(oldPrivate), signingKey(t, oldPrivate).Public().KID)
	})
}

func TestRotation(t *testing.T) {
	t.Parallel()
	older, newer := signingKey(t, oldPrivate), signingKey(t, newPrivate)
	during := public(t, newer, older)
	first, second := sign(t, older, validToken), sign(t, newer, validToken)
	for name, s := range map[string]string{"old": first, "new": second} {
		t.Run("the "+name+" key's token verifies during a rotation", func(t *testing.T) {
			got, err := during.Verify(s, now)
			require.NoError(t, err)
			require.Equal(t, validToken, got)
		})
	}
	t.Run("the new key's token verifies afterwards", func(t *testing.T) {
		_, err := public(t, newer).Verify(second, now)
		require.NoError(t, err)
	})
	for name, c := range map[string]struct {
		keys  auth.VerificationKeys
		token string
	}{
		"its key was removed":          {public(t, newer), first},
		"its key was not added yet":    {public(t, older), second},
		"there are no keys":            {auth.VerificationKeys{}, first},
		"its kid belongs to a new key": {parse(t, entry("old", newSecret)), forge(header, payload, sha256.New, oldSecret)},
	} {
		t.Run("refused: "+name, func(t *testing.T) { requireRefused(t, c.keys, c.token) })
	}
	t.Run("each new key differs", func(t *testing.T) {
		require.NotEqual(t, auth.NewSigningKey().Text(), auth.NewSigningKey().Text())
	})
}

func TestExpiry(t *testing.T) {
	t.Parallel()
	keys, key := public(t, signingKey(t, oldPrivate)), signingKey(t, oldPrivate)
	s := sign(t, key, validToken)
	t.Run("valid before ExpiresAt", func(t *testing.T) {
		_, err := keys.Verify(s, validToken.ExpiresAt.Add(-time.Nanosecond))
		require.NoError(t, err)
	})
	for _, late := range []time.Duration{0, time.Second, time.Hour} {
		t.Run("expired "+late.String()+" after ExpiresAt", func(t *testing.T) {
			_, err := keys.Verify(s, validToken.ExpiresAt.Add(late))
			require.ErrorIs(t, err, auth.ErrTokenRefused)
			require.ErrorIs(t, err, jwt.ErrTokenExpired, "the cause is for the log")
		})
	}
	t.Run("valid although the signer's clock is ahead", func(t *testing.T) {
		_, err := keys.Verify(s, now.Add(-time.Minute))
		require.NoError(t, err)
	})
	t.Run("ExpiresAt is rounded down to a second", func(t *testing.T) {
		fraction := validToken
		fraction.ExpiresAt = now.Add(1900 * time.Millisecond).In(time.FixedZone("", 3600))
		got, err := keys.Verify(sign(t, key, fraction), now)
		require.NoError(t, err)
		require.Equal(t, now.Add(time.Second), got.ExpiresAt)
	})
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
		t.Run(fmt.Sprintf("alg %q", name), func(t *testing.T) {
			for hashName, h := range map[string]func() hash.Hash{"SHA-256": sha256.New, "SHA-384": sha512.New384, "SHA-512": sha512.New} {
				requireRefused(t, keys, forge(alg(name, "old"), payload, h, oldSecret), hashName)
			}
			unsigned := forge(alg(name, "old"), payload, sha256.New, oldSecret)
			requireRefused(t, keys, unsigned[:strings.LastIndexByte(unsigned, '.')+1], "with no signature")
			requireRefused(t, keys, unsigned[:strings.LastIndexByte(unsigned, '.')], "in two parts")
		})
	}

	text := raw.EncodeToString([]byte(alg("RS256", "rsa"))) + "." + raw.EncodeToString([]byte(payload))
	digest := sha256.Sum256([]byte(text))
	signature, err := rsa.SignPKCS1v15(rand.Reader, rsaKey, crypto.SHA256, digest[:])
	require.NoError(t, err)
	for what, s := range map[string]string{
		"an HMAC with SHA-384 whose header says HS256":        forge(header, payload, sha512.New384, oldSecret),
		"an RS256 signature":                                  text + "." + raw.EncodeToString(signature),
		"an HMAC with the public key whose header says RS256": forge(alg("RS256", "rsa"), payload, sha256.New, rsaPublic),
		"an HMAC with a public key that is not the kid's":     forge(alg("HS256", "old"), payload, sha256.New, rsaPublic),
	} {
		t.Run(what, func(t *testing.T) { requireRefused(t, keys, s) })
	}

	// The signature covers the header.
	s := forge(header, payload, sha256.New, oldSecret)
	for _, name := range []string{"none", "HS384", "RS256", "EdDSA"} {
		t.Run("the header changed to "+name+" after signing", func(t *testing.T) {
			requireRefused(t, keys, raw.EncodeToString([]byte(alg(name, "old")))+s[strings.IndexByte(s, '.'):])
		})
	}
}

// The kid determines the algorithm, even in a process that has keys of both kinds.
func TestAlgorithmOfTheKid(t *testing.T) {
	t.Parallel()
	key := signingKey(t, oldPrivate)
	publicKey := []byte(oldPrivate.Public().(ed25519.PublicKey))
	secret := ed25519.NewKeyFromSeed(newSecret[:32]).Seed()
	verifier := newVerifier(t, parse(t, entry("old", oldSecret), entry("public", publicKey), entry("seed", secret)), key.Public(), legacyRow)
	verify := func(t *testing.T, s string) error {
		_, err := verifier.Verify(t.Context(), s, now)
		return err
	}
	alg := func(name, kid string) string { return fmt.Sprintf(`{"alg":%q,"kid":%q,"typ":"JWT"}`, name, kid) }
	require.NoError(t, verify(t, forgeSigned(alg("EdDSA", kid(oldPrivate)), payload, oldPrivate)))
	require.NoError(t, verify(t, forge(alg("HS256", "old"), payload, sha256.New, oldSecret)))

	text := func(header string) string {
		return raw.EncodeToString([]byte(header)) + "." + raw.EncodeToString([]byte(payload))
	}
	for what, s := range map[string]string{
		"an HMAC with the public key":                                    forge(alg("HS256", kid(oldPrivate)), payload, sha256.New, publicKey),
		"an HMAC with the public key, whose header says EdDSA":           forge(alg("EdDSA", kid(oldPrivate)), payload, sha256.New, publicKey),
		"an HMAC with a legacy secret under the kid of a pair":           forge(alg("HS256", kid(oldPrivate)), payload, sha256.New, oldSecret),
		"an HMAC of the text of the public key":                          forge(alg("HS256", kid(oldPrivate)), payload, sha256.New, []byte(raw.EncodeToString(publicKey))),
		"a signature under the kid of a secret":                          forgeSigned(alg("EdDSA", "old"), payload, oldPrivate),
		"a signature whose header says HS256":                            forgeSigned(alg("HS256", kid(oldPrivate)), payload, oldPrivate),
		"a signature whose header says HS256, under the kid of a secret": forgeSigned(alg("HS256", "old"), payload, oldPrivate),
		"a signature by a pair made of a secret, under its kid":          forgeSigned(alg("EdDSA", "seed"), payload, newPrivate),
		"a signature by a pair made of a secret":                         forgeSigned(alg("EdDSA", kid(newPrivate)), payload, newPrivate),
		"a signature by another pair":                                    forgeSigned(alg("EdDSA", kid(oldPrivate)), payload, newPrivate),
		"no signature":                                                   text(alg("none", kid(oldPrivate))) + ".",
		"no signature, whose header says EdDSA":                          text(alg("EdDSA", kid(oldPrivate))) + ".",
		"zeros":                                                          text(alg("EdDSA", kid(oldPrivate))) + "." + raw.EncodeToString(make([]byte, 64)),
		"the kid of the row that has no key":                             forge(alg("HS256", promise.LegacyKID), payload, sha256.New, nil),
		"an HMAC with the seed, which is the whole secret of a pair":     forge(alg("HS256", kid(oldPrivate)), payload, sha256.New, oldPrivate.Seed()),
		"the signature's algorithm by another name":                      forgeSigned(alg("Ed25519", kid(oldPrivate)), payload, oldPrivate),
		"a kid in capitals":                                              forgeSigned(alg("EdDSA", strings.ToUpper(kid(oldPrivate))), payload, oldPrivate),
		"a kid without its prefix":                                       forgeSigned(alg("EdDSA", strings.TrimPrefix(kid(oldPrivate), "ed25519:")), payload, oldPrivate),
	} {
		t.Run("refused: "+what, func(t *testing.T) { require.ErrorIs(t, verify(t, s), auth.ErrTokenRefused) })
	}
	t.Run("a legacy secret that equals a public key verifies HMACs only", func(t *testing.T) {
		require.NoError(t, verify(t, forge(alg("HS256", "public"), payload, sha256.New, publicKey)))
		require.ErrorIs(t, verify(t, forgeSigned(alg("EdDSA", "public"), payload, oldPrivate)), auth.ErrTokenRefused)
	})
}

func TestHeaderMustBeOurs(t *testing.T) {
	t.Parallel()
	for name, k := range kinds(t) {
		t.Run(name+" verifies its own header", func(t *testing.T) {
			_, err := k.keys.Verify(k.forge(k.header, payload), now)
			require.NoError(t, err)
		})
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
		for name, k := range kinds(t) {
			t.Run(fmt.Sprintf("%s refuses %.80s", name, h), func(t *testing.T) { requireRefused(t, k.keys, k.forge(k.ours(h), payload)) })
		}
	}
}

func TestClaims(t *testing.T) {
	t.Parallel()
	key := signingKey(t, oldPrivate)
	k := kinds(t)["Ed25519"]
	keys := k.keys
	change := func(t *testing.T, name string, value any) string {
		var c map[string]any
		require.NoError(t, json.Unmarshal([]byte(payload), &c))
		if c[name] = value; value == nil {
			delete(c, name)
		}
		b, err := json.Marshal(c)
		require.NoError(t, err)
		return string(b)
	}
	for kindName, k := range kinds(t) {
		for name, values := range map[string][]any{
			"iss": {nil, "", "Promises", "https://example.com", []string{"promises"}},
			"aud": {nil, "", "promises", []string{"promise"}, []string{}},
			"sub": {nil, "", uuid.Nil.String(), "x", validToken.PromiseID.URN(), strings.ReplaceAll(validToken.PromiseID.String(), "-", ""), 1},
			"jti": {nil, "", uuid.Nil.String(), "x", "{" + validToken.ID.String() + "}"},
			"ten": {nil, "", "a\x00b", strings.Repeat("a", 256), 1},
			"vrb": {nil, []string{}, []string{"cancel"}, []string{"resolve", "x"}, []string{"resolve", "resolve"}, []any{nil}, "resolve", []string{"Resolve"}},
			"exp": {nil, now.Unix(), now.Unix() - 1, 0, -1, 1e300, "tomorrow", map[string]int{}},
		} {
			for _, v := range values {
				t.Run(fmt.Sprintf("%s refuses %s %.40v", kindName, name, v), func(t *testing.T) {
					requireRefused(t, k.keys, k.forge(k.header, change(t, name, v)))
				})
			}
		}
		for _, p := range []string{`null`, `{}`, `[]`, `1`, ``, payload + payload, payload[:len(payload)-1], "\xff", strings.Repeat("[", 900)} {
			t.Run(fmt.Sprintf("%s refuses the payload %.40q", kindName, p), func(t *testing.T) {
				requireRefused(t, k.keys, k.forge(k.header, p))
			})
		}
	}

	s := strings.Split(sign(t, key, validToken), ".")
	for name, v := range map[string]any{"ten": "demo", "sub": uuid.NewString(), "exp": now.Unix() + 1e6, "vrb": []string{"resolve"}} {
		t.Run("refuses "+name+" changed after signing", func(t *testing.T) {
			requireRefused(t, keys, s[0]+"."+raw.EncodeToString([]byte(change(t, name, v)))+"."+s[2])
		})
	}
	t.Run("another tenant's token verifies, because the caller compares the tenant", func(t *testing.T) {
		got, err := keys.Verify(k.forge(k.header, change(t, "ten", "demo")), now)
		require.NoError(t, err)
		require.Equal(t, "demo", got.Tenant)
	})
	t.Run("another promise's token verifies, because the caller compares the promise", func(t *testing.T) {
		elsewhere := uuid.New()
		got, err := keys.Verify(k.forge(k.header, change(t, "sub", elsewhere.String())), now)
		require.NoError(t, err)
		require.Equal(t, elsewhere, got.PromiseID)
	})
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
					requireRefused(t, k.keys, other, "byte %d is %q", i, c)
				}
			}
			for _, c := range "\n\r =." {
				requireRefused(t, k.keys, s[:i]+string(c)+s[i:], "%q before byte %d", c, i)
			}
		}
		// 32 bytes leave 2 spare bits in the last digit, 64 bytes leave 4. A lenient decoder ignores their value.
		last := strings.IndexByte(digits, s[len(s)-1])
		for bits := 1; bits < spare[name]; bits++ {
			other := s[:len(s)-1] + string(digits[last|bits])
			_, err := raw.DecodeString(other[strings.LastIndexByte(other, '.')+1:])
			require.NoError(t, err, "a lenient decoder accepts it")
			requireRefused(t, k.keys, other)
		}
		for _, other := range []string{s + "=", s + "\n", s + ".", s + "." + s, "Bearer " + s, "", ".", "..", "...", "a.b.c"} {
			requireRefused(t, k.keys, other)
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
	requireRefused(t, keys, strings.Repeat("a.", 1<<20))

	widest := validToken
	widest.Tenant = strings.Repeat("𐀀", 255)
	got, err := keys.Verify(sign(t, key, widest), now)
	require.NoError(t, err, "the longest slug without escapes fits")
	require.Equal(t, widest, got)
	widest.Tenant = strings.Repeat("<", 255)
	_, err = key.Sign(widest, now)
	require.ErrorContains(t, err, "bytes long", "escaped as \\u003c, it does not fit, and Sign refuses it")
}

func TestSignRefuses(t *testing.T) {
	t.Parallel()
	key := signingKey(t, oldPrivate)
	for name, spoil := range map[string]func(*auth.Token){
		"no id":          func(t *auth.Token) { t.ID = uuid.Nil },
		"no tenant":      func(t *auth.Token) { t.Tenant = "" },
		"invalid tenant": func(t *auth.Token) { t.Tenant = "\xff" },
		"no promise":     func(t *auth.Token) { t.PromiseID = uuid.Nil },
		"no verbs":       func(t *auth.Token) { t.Verbs = nil },
		"unknown verb":   func(t *auth.Token) { t.Verbs = []promise.Verb{"cancel"} },
		"verb twice":     func(t *auth.Token) { t.Verbs = []promise.Verb{"reject", "reject"} },
		"no expiry":      func(t *auth.Token) { t.ExpiresAt = time.Time{} },
		"expired":        func(t *auth.Token) { t.ExpiresAt = now },
		"under 1 s off":  func(t *auth.Token) { t.ExpiresAt = now.Add(999 * time.Millisecond) },
	} {
		t.Run(name, func(t *testing.T) {
			token := validToken
			spoil(&token)
			s, err := key.Sign(token, now)
			require.Error(t, err)
			require.Empty(t, s)
		})
	}
	t.Run("no signing key", func(t *testing.T) {
		_, err := auth.SigningKey{}.Sign(validToken, now)
		require.ErrorContains(t, err, "no signing key")
	})
}

func TestParseLegacySecrets(t *testing.T) {
	t.Parallel()
	secret := raw.EncodeToString(oldSecret)
	other := raw.EncodeToString(newSecret)
	padded := base64.URLEncoding.EncodeToString(oldSecret)
	for name, s := range map[string]string{
		"kid and secret":    "k:" + secret,
		"padded":            "k:" + padded,
		"space around":      " k:" + secret + "\n",
		"two":               "a:" + secret + ", b:" + other,
		"longest kid":       strings.Repeat("k", 64) + ":" + secret,
		"every kind of kid": "A-z_0.9:" + secret,
		"no kid":            secret,
		"two without kids":  padded + "," + other,
	} {
		t.Run("valid: "+name, func(t *testing.T) {
			_, err := auth.ParseLegacySecrets(s)
			require.NoError(t, err)
		})
	}
	t.Run("each of two secrets verifies", func(t *testing.T) {
		keys := parse(t, "a:"+secret, "old:"+other)
		_, err := keys.Verify(forge(header, payload, sha256.New, newSecret), now)
		require.NoError(t, err)
	})
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
		t.Run("invalid: "+name, func(t *testing.T) {
			keys, err := auth.ParseLegacySecrets(s)
			require.Error(t, err)
			require.Zero(t, keys)
			require.Regexp(t, `^secret \d+`, err.Error(), "the position of the secret")
			for _, quoted := range []string{secret[:10], other[:10], string(oldSecret[:10]), string(newSecret[:10])} {
				require.NotContains(t, err.Error(), quoted)
			}
		})
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

// The text of a signing key has one spelling, and no error quotes a part of it.
func TestParseSigningKey(t *testing.T) {
	t.Parallel()
	key := auth.NewSigningKey()
	text := key.Text()
	require.Regexp(t, "^"+auth.PrivateKeyPattern+"$", text)
	for what, s := range map[string]string{"exact": text, "line break after": text + "\n", "space before": " " + text} {
		t.Run("valid: "+what, func(t *testing.T) {
			again, err := auth.ParseSigningKey(s)
			require.NoError(t, err)
			require.Equal(t, key.Public(), again.Public())
			require.Equal(t, text, again.Text())
		})
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
		"two keys":      text + "," + text,
		"a legacy key":  entry("k", oldSecret),
	} {
		t.Run("invalid: "+what, func(t *testing.T) {
			invalid, err := auth.ParseSigningKey(s)
			require.Error(t, err)
			require.NotContains(t, err.Error(), encoded[:8])
			_, err = invalid.Sign(validToken, now)
			require.Error(t, err)
		})
	}
}

// A row whose kid is not the hash of its key verifies nothing. Rows of other kinds are for later releases.
func TestPublicKeys(t *testing.T) {
	t.Parallel()
	key := signingKey(t, oldPrivate)
	row := key.Public()
	keys, err := auth.ParsePublicKeys([]promise.SigningKey{
		{KID: kid(newPrivate), PublicKey: row.PublicKey}, {KID: "mldsa:1", PublicKey: make([]byte, 1952)}, {KID: row.KID, PublicKey: row.PublicKey[:31]},
		legacyRow, {},
	})
	require.NoError(t, err)
	requireRefused(t, keys, sign(t, key, validToken))
	requireRefused(t, keys, forgeSigned(fmt.Sprintf(`{"alg":"EdDSA","kid":%q,"typ":"JWT"}`, kid(newPrivate)), payload, oldPrivate))
}
