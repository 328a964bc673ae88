package seal_test

import (
	"bytes"
	"encoding/json"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/seal"
)

// FuzzOpen opens any text. Open must not panic. A text that it opens must equal, byte for byte, the text that the oracle seals with the
// same nonce. No change of a valid text may be opened.
func FuzzOpen(f *testing.F) {
	keys := ring(f, newSecret, oldSecret)
	nonce := []byte("twelve bytes")
	for _, secret := range [][]byte{oldSecret, newSecret} {
		f.Add(oracleSeal(secret, nonce, purpose, row, version, plaintext), purpose, row, version, uint16(9), []byte{1})
		f.Add(oracleSeal(secret, nonce, "p", "r", -1, nil), "p", "r", -1, uint16(0), []byte{1, 2})
		f.Add(append([]byte{1}, oracleID(secret)...), "p", "r", 0, uint16(3), []byte{0})
	}
	f.Add(oracleSeal(oldSecret, nonce, "", "", 0, nil), "", "", 0, uint16(21), []byte(""))
	f.Add([]byte{}, "", "", 0, uint16(0), []byte{})
	f.Fuzz(func(t *testing.T, text []byte, purpose, row string, version int, at uint16, change []byte) {
		if got, err := keys.Open(purpose, row, version, text); err != nil {
			require.Equal(t, seal.ErrRefused, err)
			require.Nil(t, got)
		} else {
			secret := oldSecret
			if !keys.NeedsReseal(text) {
				secret = newSecret
			}
			require.Equal(t, oracleSeal(secret, text[9:21], purpose, row, version, got), text)
		}
		if purpose == "" || row == "" {
			return
		}
		valid, err := keys.Seal(purpose, row, version, text)
		require.NoError(t, err)
		require.Equal(t, oracleSeal(newSecret, valid[9:21], purpose, row, version, text), valid)
		got, err := keys.Open(purpose, row, version, valid)
		require.NoError(t, err)
		require.True(t, bytes.Equal(text, got))
		i := int(at) % len(valid)
		end := min(i+len(change), len(valid))
		for _, other := range [][]byte{
			valid[:i], valid[i:], append(slices.Clone(valid), change...), slices.Insert(slices.Clone(valid), i, change...),
			append(append(slices.Clone(valid[:i]), change[:end-i]...), valid[end:]...),
		} {
			if bytes.Equal(other, valid) {
				continue
			}
			got, err := keys.Open(purpose, row, version, other)
			require.Equal(t, seal.ErrRefused, err)
			require.Nil(t, got)
		}
		for _, p := range []struct {
			purpose, row string
			version      int
		}{{purpose + string(change), row, version}, {purpose, row + string(change), version}, {purpose, row, version + int(at)}, {row, purpose, version}} {
			if p.purpose != purpose || p.row != row || p.version != version {
				_, err := keys.Open(p.purpose, p.row, p.version, valid)
				require.Equal(t, seal.ErrRefused, err)
			}
		}
	})
}

// FuzzParse parses any text. Parse must not panic. If it accepts a text, the ring's text is the same without white space, and the ring
// works.
func FuzzParse(f *testing.F) {
	one, two := ringText(oldSecret), ringText(newSecret, oldSecret)
	for _, text := range []string{
		one, two, " " + one + "\n", one[:len(one)-1], one + one, "{}", `{"keys":[]}`, `{"keys":[{}]}`, `{"keys":[{"id":"","key":""}]}`, "null", "", "[",
		`{"keys":[{"id":"0000000000000000","key":"aes256-seal:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"}]}`,
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		keys, err := seal.Parse(text)
		if err != nil {
			require.Nil(t, keys)
			return
		}
		var compact bytes.Buffer
		require.NoError(t, json.Compact(&compact, []byte(text)))
		require.Equal(t, compact.String(), keys.Text())
		requireOpens(t, keys, sealed(t, keys))
		require.False(t, keys.NeedsReseal(sealed(t, keys)))
	})
}
