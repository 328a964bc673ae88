package auth_test

import (
	"encoding/base32"
	"encoding/hex"
	"hash/crc32"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/auth"
)

const alphabet = "0123456789abcdefghjkmnpqrstvwxyz"

// goldenKey is a fixed API key. It must stay valid, because callers use keys that earlier releases made.
const goldenKey = "prk_0123456789abcdefghjkmnpqrstvwxyz01234567" + "1d2b0rg"

var keyPattern = regexp.MustCompile(`^(?:` + auth.APIKeyPattern + `)$`)

func TestNewAPIKey(t *testing.T) {
	t.Parallel()
	seen, positions := map[string]bool{}, make([]map[byte]bool, 40)
	for range 2000 {
		s := auth.NewAPIKey()
		require.Len(t, s, 51)
		require.True(t, auth.CheckAPIKey(s), s)
		require.True(t, auth.LooksLikeAPIKey(s))
		require.Regexp(t, keyPattern, s)
		require.False(t, seen[s])
		seen[s] = true
		random, err := base32.NewEncoding(alphabet).WithPadding(base32.NoPadding).DecodeString(s[4:44])
		require.NoError(t, err)
		require.Len(t, random, 25, "200 bits")
		for i := range positions {
			if positions[i] == nil {
				positions[i] = map[byte]bool{}
			}
			positions[i][s[4+i]] = true
		}
	}
	for i, chars := range positions {
		require.Len(t, chars, 32, "character %d is random", i)
	}
}

func TestCheckAPIKeyFindsTypos(t *testing.T) {
	t.Parallel()
	require.True(t, auth.CheckAPIKey(goldenKey))
	for _, s := range []string{goldenKey, auth.NewAPIKey(), auth.NewAPIKey(), auth.NewAPIKey()} {
		for i := range s {
			for c := range 256 {
				typo := s[:i] + string([]byte{byte(c)}) + s[i+1:]
				require.Equal(t, typo == s, auth.CheckAPIKey(typo), "%q", typo)
			}
			require.False(t, auth.CheckAPIKey(s[:i]), "cut off")
			require.False(t, auth.CheckAPIKey(s[:i]+s[i+1:]), "left out")
			require.False(t, auth.CheckAPIKey(s[:i]+s[i:i+1]+s[i:]), "doubled")
			require.False(t, auth.CheckAPIKey(s[:i]+"\n"+s[i:]))
		}
	}
	for range 2000 {
		s := auth.NewAPIKey()
		for i := range len(s) - 1 {
			swapped := s[:i] + s[i+1:i+2] + s[i:i+1] + s[i+2:]
			require.Equal(t, swapped == s, auth.CheckAPIKey(swapped), "%q", swapped)
		}
	}
}

func TestCheckAPIKeyIsCanonical(t *testing.T) {
	t.Parallel()
	for name, s := range map[string]string{
		"empty": "", "prefix": "prk_", "capitals": strings.ToUpper(goldenKey), "prefix in capitals": "PRK_" + goldenKey[4:], "padding": goldenKey + "=",
		"space before": " " + goldenKey, "line break after": goldenKey + "\n", "o for 0": strings.Replace(goldenKey, "0", "o", 1),
		"l for 1": strings.Replace(goldenKey, "1", "l", 1), "with scheme": "Bearer " + goldenKey,
		"line break within": goldenKey[:20] + "\r\n" + goldenKey[22:], "long": strings.Repeat("prk_", 1<<16),
	} {
		t.Run(name, func(t *testing.T) { require.False(t, auth.CheckAPIKey(s)) })
	}
}

func TestAPIKeyPatternFindsKeysInText(t *testing.T) {
	t.Parallel()
	s := auth.NewAPIKey()
	find := regexp.MustCompile(auth.APIKeyPattern)
	require.Equal(t, s, find.FindString(`PROMISES_KEY="`+s+`"`))
	require.Equal(t, s, find.FindString("curl -H 'Authorization: Bearer "+s+"' x"))
	require.Empty(t, find.FindString(strings.ToUpper(s)))
	require.Empty(t, find.FindString(s[:50]))
}

func TestHashAPIKey(t *testing.T) {
	t.Parallel()
	h := auth.HashAPIKey("abc") // FIPS 180-2, B.1
	require.Equal(t, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad", hex.EncodeToString(h))
	require.True(t, auth.SameHash(h, auth.HashAPIKey("abc")))
	require.False(t, auth.SameHash(h, auth.HashAPIKey("abd")))
	require.False(t, auth.SameHash(h, h[:31]))
	require.False(t, auth.SameHash(h, nil))
}

// FuzzCheckAPIKey compares CheckAPIKey with the pattern and a checksum that the test
// calculates digit by digit.
func FuzzCheckAPIKey(f *testing.F) {
	for _, s := range []string{
		"", "prk_", goldenKey, goldenKey[:50], goldenKey + "0", strings.ToUpper(goldenKey), goldenKey[:43] + "\n" + goldenKey[44:],
		goldenKey[:50] + "h", goldenKey[:4] + "1" + goldenKey[5:], "x" + goldenKey, goldenKey + "\n", goldenKey[:50] + "\n",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		// form is a text of the right form with the right checksum. It must be valid.
		form := "prk_"
		for _, b := range []byte(s + goldenKey)[:40] {
			form += string(alphabet[b&31])
		}
		sum := crc32.ChecksumIEEE([]byte(form))
		for shift := 30; shift >= 0; shift -= 5 {
			form += string(alphabet[sum>>shift&31])
		}
		require.True(t, auth.CheckAPIKey(form), form)

		valid := keyPattern.MatchString(s)
		if valid {
			sum := crc32.ChecksumIEEE([]byte(s[:44]))
			for i, shift := 44, 30; i < len(s); i, shift = i+1, shift-5 {
				valid = valid && s[i] == alphabet[sum>>shift&31]
			}
		}
		require.Equal(t, valid, auth.CheckAPIKey(s), "%q", s)
		require.True(t, !valid || auth.LooksLikeAPIKey(s))
	})
}
