package auth_test

import (
	"crypto/sha256"
	"encoding/json"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/auth"
	"github.com/flovyn/promises/shared/promise"
)

// FuzzVerify verifies any text, and any header and payload signed with each kind of
// key. Verify must not panic. A token that verifies must equal, byte for byte, the
// token that the standard library signs from the same header and payload with the
// header's key. Its contents must be those that encoding/json reads.
func FuzzVerify(f *testing.F) {
	all := kinds(f)
	signedHeader := all["Ed25519"].header
	again := map[string]func(header, payload string) string{} // by encoded header
	for _, name := range []string{"old", "new"} {
		secret, private := oldSecret, oldPrivate
		if name == "new" {
			secret, private = newSecret, newPrivate
		}
		again[raw.EncodeToString([]byte(strings.Replace(header, "old", name, 1)))] = func(header, payload string) string {
			return forge(header, payload, sha256.New, secret)
		}
		again[raw.EncodeToString([]byte(strings.Replace(signedHeader, kid(oldPrivate), kid(private), 1)))] = func(header, payload string) string {
			return forgeSigned(header, payload, private)
		}
	}
	key := signingKey(f, newPrivate)
	verifier := newVerifier(f, all["HMAC"].keys, signingKey(f, oldPrivate).Public(), key.Public(), legacyRow)
	s := sign(f, signingKey(f, oldPrivate), validToken)
	parts := strings.Split(s, ".")
	for _, token := range []string{
		s, sign(f, key, validToken), all["HMAC"].forge(header, payload), s[1:], s + "=", "..", "a.b.c", "", "e30.e30.e30", s[:len(s)-1], parts[0] + "." + parts[1] + ".",
		parts[0] + "." + parts[1], parts[0] + "." + parts[1] + "." + strings.Repeat("A", 86), parts[0] + "\n." + parts[1] + "." + parts[2],
		parts[0] + "." + parts[1][1:] + "." + parts[2], strings.Replace(s, ".", "..", 1), s + "." + s, "Bearer " + s, s[:len(s)-9] + "\n" + s[len(s)-9:],
	} {
		f.Add(token, header, payload)
	}
	for c := range 64 { // including those that a lenient decoder takes for the last one
		f.Add(s[:len(s)-1]+raw.EncodeToString([]byte{byte(c << 2)})[:1], signedHeader, payload)
	}
	for _, h := range []string{`{"alg":"none"}`, `{"alg":"HS256","kid":"old","kid":1}`, `null`, `{"alg":{},"kid":[]}`, header + " ", strings.Replace(header, "old", "new", 1),
		signedHeader, strings.Replace(signedHeader, "EdDSA", "HS256", 1), strings.Replace(header, "HS256", "EdDSA", 1), strings.Replace(signedHeader, "ed25519:", "", 1)} {
		f.Add(s, h, payload)
	}
	for _, p := range []string{
		`null`, `{"exp":1e999}`, `{"exp":null}`, `{"exp":9e18,"sub":{}}`, strings.Replace(payload, "exp", "Exq", 1),
		strings.Replace(payload, `"promise"`, `"promises"`, 1), strings.Replace(payload, `"promises"`, `"promise"`, 1),
		`[[[`, payload + " ", payload + payload, "\ufeff" + payload,
		strings.Replace(payload, "1772370000", "1772370000.5", 1), strings.Replace(payload, "1772370000", "9.3e18", 1),
		strings.Replace(payload, "1772370000", `"1772370000"`, 1), strings.Replace(payload, "acme", "\xff", 1),
		strings.Replace(payload, "acme", `<&>\u2028\ud800`, 1), strings.Replace(payload, "7d9f", "7D9F", 1),
		strings.Replace(payload, `"ten"`, `"TEN"`, 1), strings.Replace(payload, `"ten":"acme"`, `"ten":"acme","ten":"demo"`, 1),
		strings.Replace(payload, "1772370000", "1772366400", 1), strings.Replace(payload, `"reject"`, `"resolve"`, 1),
		strings.Replace(payload, "acme", strings.Repeat("a", 255), 1), strings.Replace(payload, "acme", `a\u0000`, 1),
		strings.TrimSuffix(payload, "}") + `,"key":"C1A5F0DE-4b1d-4d3b-9a53-5b7d0a6e2f90","rvk":-1,"bod":"raw"}`,
		strings.TrimSuffix(payload, "}") + `,"rvk":9223372036854775807,"bod":""}`,
	} {
		f.Add(s, header, p)
		f.Add(s, signedHeader, p)
	}
	f.Fuzz(func(t *testing.T, token, header, payload string) {
		for _, s := range []string{token, forge(header, payload, sha256.New, oldSecret), forgeSigned(header, payload, oldPrivate)} {
			got, err := verifier.Verify(t.Context(), s, now)
			if err != nil {
				require.ErrorIs(t, err, auth.ErrTokenRefused)
				require.Zero(t, got)
				continue
			}
			require.LessOrEqual(t, len(s), auth.MaxTokenLength)
			parts := strings.Split(s, ".")
			require.Len(t, parts, 3, s)
			sign, ours := again[parts[0]]
			require.True(t, ours, "the header is one that Sign writes: %q", s)
			head, err := raw.DecodeString(parts[0])
			require.NoError(t, err)
			body, err := raw.DecodeString(parts[1])
			require.NoError(t, err)
			require.Equal(t, sign(string(head), string(body)), s)
			requireClaims(t, string(body), got)

			same, err := key.Sign(got, now)
			if err != nil { // a slug grows by escapes
				require.ErrorContains(t, err, "bytes long")
				continue
			}
			read, err := verifier.Verify(t.Context(), same, now)
			require.NoError(t, err)
			require.Equal(t, got, read)
		}
	})
}

// requireClaims compares a Token with the payload that it was read from.
func requireClaims(t *testing.T, payload string, got auth.Token) {
	t.Helper()
	var c struct {
		Iss, Aud, Sub, Ten, Jti string
		Vrb                     []promise.Verb
		Exp                     json.Number
		Key, Bod                string
		Rvk                     int64
	}
	require.NoError(t, json.Unmarshal([]byte(payload), &c), payload)
	require.Equal(t, "promises", c.Iss)
	require.Equal(t, "promise", c.Aud)
	require.Equal(t, strings.ToLower(c.Sub), got.PromiseID.String())
	require.Equal(t, strings.ToLower(c.Jti), got.ID.String())
	require.Equal(t, c.Ten, got.Tenant)
	require.NoError(t, promise.CheckName(got.Tenant))
	require.Equal(t, c.Vrb, got.Verbs)
	require.Equal(t, c.Bod == "raw", got.RawBody)
	require.Contains(t, []string{"", "raw"}, c.Bod)
	require.Equal(t, c.Rvk == 0, got.RevokedAt == nil)
	if got.RevokedAt != nil {
		require.Equal(t, c.Rvk, got.RevokedAt.UnixMicro())
	}
	require.Equal(t, c.Key != "", got.APIKeyID != uuid.Nil)
	if c.Key != "" {
		require.Equal(t, strings.ToLower(c.Key), got.APIKeyID.String())
	}
	require.NotEmpty(t, got.Verbs)
	exp, err := c.Exp.Float64()
	require.NoError(t, err)
	require.InDelta(t, exp, float64(got.ExpiresAt.Unix()), 1, "%s %s", payload, got.ExpiresAt)
	require.LessOrEqual(t, float64(got.ExpiresAt.Unix()), exp, "not later than the signed time")
	require.True(t, got.ExpiresAt.After(now))
}

// FuzzSign signs any token. Sign must refuse it, or Verify must return an equal Token.
// Verify must refuse the text if a bit is changed, or a character added or removed.
func FuzzSign(f *testing.F) {
	for _, tenant := range []string{"acme", "", "a\x00", "\xff", "<&>\u2028", strings.Repeat("𐀀", 255), strings.Repeat("<", 255), strings.Repeat("a", 256), `"}`, "\ufffd"} {
		for i, verbs := range []string{"resolve reject", "resolve", "reject", "", "cancel", "resolve resolve", "reject Resolve"} {
			f.Add(tenant, validToken.PromiseID[:], verbs, int64(i)*3600-1, uint16(i*53), byte(1<<i), tenant)
		}
	}
	f.Add("acme", make([]byte, 16), "resolve", int64(60), uint16(0), byte(1), "")
	for at := range uint16(420) {
		f.Add("acme", validToken.PromiseID[:], "resolve", int64(math.MaxInt32), at, byte(1<<(at%8)), "\n")
	}
	f.Fuzz(func(t *testing.T, tenant string, id []byte, verbs string, seconds int64, at uint16, flip byte, put string) {
		key := signingKey(t, newPrivate)
		keys := public(t, key, signingKey(t, oldPrivate))
		token := auth.Token{ID: uuid.UUID{15: 1}, Tenant: tenant, ExpiresAt: now.Add(time.Duration(seconds%(1<<33)) * time.Second)}
		if seconds%2 == 0 {
			token.APIKeyID, token.RevokedAt, token.RawBody = uuid.UUID{0: 1, 15: byte(at)}, new(now.Add(-time.Duration(at)*time.Microsecond)), at%3 == 0
		}
		copy(token.PromiseID[:], id)
		known := map[string]int{}
		for v := range strings.FieldsSeq(verbs) {
			token.Verbs = append(token.Verbs, promise.Verb(v))
			known[v]++
		}
		valid := promise.CheckName(tenant) == nil && token.PromiseID != uuid.Nil && token.ExpiresAt.After(now) &&
			len(token.Verbs) > 0 && known["resolve"] <= 1 && known["reject"] <= 1 && known["resolve"]+known["reject"] == len(token.Verbs)
		s, err := key.Sign(token, now)
		if err != nil {
			require.Empty(t, s)
			if valid {
				require.ErrorContains(t, err, "bytes long")
			}
			return
		}
		require.True(t, valid, "%+v", token)
		got, err := keys.Verify(s, now)
		require.NoError(t, err)
		require.Equal(t, token, got)
		_, err = keys.Verify(s, token.ExpiresAt)
		require.ErrorIs(t, err, auth.ErrTokenRefused, "expired")

		i := int(at) % len(s)
		put = put[:min(len(put), 100)]
		for _, other := range []string{
			s[:i] + string([]byte{s[i] ^ flip}) + s[i+1:], s[:i] + put + s[i:], s[:i] + s[i+1:], s[:i] + put + s[i+1:], s[:i], s[i:],
		} {
			if other != s {
				requireRefused(t, keys, other, "%d %d %q", i, flip, put)
			}
		}
		requireRefused(t, public(t, signingKey(t, oldPrivate)), s, "the key is missing")
	})
}
