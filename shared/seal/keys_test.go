package seal_test

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/seal"
)

func TestText(t *testing.T) {
	t.Parallel()
	for name, keys := range map[string]*seal.Keys{
		"one key": seal.Generate(), "two keys": seal.Generate().Rotate(), "after two rotations": seal.Generate().Rotate().Rotate(),
		"a rotated empty ring": new(seal.Keys).Rotate(),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			text := keys.Text()
			require.True(t, json.Valid([]byte(text)))
			same, err := seal.Parse(text)
			require.NoError(t, err)
			require.Equal(t, text, same.Text())
			requireOpens(t, same, sealed(t, keys))
			requireOpens(t, keys, sealed(t, same))
			require.NotEqual(t, text, seal.Generate().Text(), "keys are random")
			require.Len(t, regexp.MustCompile(seal.KeyPattern).FindAllString("x"+text+"x", -1), strings.Count(text, `"key"`), "a secret scanner finds each key")
		})
	}
}

func TestParse(t *testing.T) {
	t.Parallel()
	one, two := ringText(oldSecret), ringText(newSecret, oldSecret)
	for name, text := range map[string]string{
		"one key": one, "two keys": two, "white space around": " \r\n" + two + "\n\t", "indented": strings.NewReplacer("{", "{\n  ", ":", " : ", ",", " ,\n").Replace(one[:35]) + one[35:],
	} {
		t.Run("valid: "+name, func(t *testing.T) {
			t.Parallel()
			keys, err := seal.Parse(text)
			require.NoError(t, err)
			requireOpens(t, keys, sealed(t, ring(t, oldSecret)))
		})
	}

	entry := one[len(`{"keys":[`) : len(one)-len(`]}`)]
	id, encoded := hex.EncodeToString(oracleID(oldSecret)), base64.RawURLEncoding.EncodeToString(oldSecret)
	otherID, otherEncoded := hex.EncodeToString(oracleID(newSecret)), base64.RawURLEncoding.EncodeToString(newSecret)
	require.Equal(t, `{"id":"`+id+`","key":"aes256-seal:`+encoded+`"}`, entry)
	replace := func(from, to string) string {
		t.Helper()
		require.Contains(t, two, from)
		return strings.Replace(two, from, to, 1)
	}
	for name, text := range map[string]string{
		"nothing":                 "",
		"not JSON":                encoded,
		"the key alone":           `"aes256-seal:` + encoded + `"`,
		"null":                    "null",
		"a list":                  "[" + entry + "]",
		"no keys":                 `{}`,
		"null keys":               `{"keys":null}`,
		"empty keys":              `{"keys":[]}`,
		"null key":                `{"keys":[null]}`,
		"text for a key":          `{"keys":["` + encoded + `"]}`,
		"three keys":              ringText(oldSecret, newSecret, bytes.Repeat([]byte("3"), 32)),
		"same key twice":          ringText(oldSecret, oldSecret),
		"same id twice":           replace(id, otherID),
		"swapped ids":             strings.NewReplacer(id, otherID, otherID, id).Replace(two),
		"swapped id and key":      `{"keys":[{"id":"aes256-seal:` + encoded + `","key":"` + id + `"}]}`,
		"upper-case id":           replace(id, strings.ToUpper(id)),
		"truncated id":            replace(id, id[:15]),
		"empty id":                replace(id, ""),
		"number as id":            replace(`"`+id+`"`, "1"),
		"no id":                   replace(`"id":"`+id+`",`, ""),
		"no key":                  replace(`,"key":"aes256-seal:`+encoded+`"`, ""),
		"no prefix":               replace("aes256-seal:", ""),
		"another prefix":          replace("aes256-seal:", "ed25519-private:"),
		"31 bytes":                ringText(oldSecret[:31]),
		"33 bytes":                ringText(append([]byte{1}, oldSecret...)),
		"16 bytes":                ringText(oldSecret[:16]),
		"no bytes":                ringText([]byte{}),
		"padding":                 replace(encoded, encoded+"="),
		"standard base64":         strings.NewReplacer("-", "+", "_", "/").Replace(ringText(bytes.Repeat([]byte{0xfb}, 32))),
		"trailing bits":           replace(encoded, encoded[:42]+string(encoded[42]+1)),
		"line break in key":       replace(encoded, encoded[:20]+`\n`+encoded[20:]),
		"raw line break in key":   replace(encoded, encoded[:20]+"\n"+encoded[20:]),
		"space in key":            replace(encoded, " "+encoded),
		"another key":             replace(encoded, otherEncoded[:42]+encoded[42:]),
		"changed key":             replace(encoded, "A"+encoded[1:]),
		"unknown field":           replace(`{"keys"`, `{"version":1,"keys"`),
		"unknown field of a key":  replace(`{"id"`, `{"created":"2026","id"`),
		"keys twice":              replace(`{"keys":`, `{"keys":[],"keys":`),
		"id twice":                replace(`{"id":`, `{"id":"","id":`),
		"key twice":               replace(`"key":`, `"key":"`+encoded+`","key":`),
		"other order":             `{"keys":[{"key":"aes256-seal:` + encoded + `","id":"` + id + `"}]}`,
		"upper-case name":         replace(`"keys"`, `"Keys"`),
		"upper-case name of id":   replace(`"id"`, `"ID"`),
		"escaped name":            replace(`"keys"`, `"\u006beys"`),
		"escape":                  replace("aes256", `\u0061es256`),
		"invalid Unicode":         replace(encoded, encoded+"\xff"),
		"byte order mark":         "\ufeff" + two,
		"data behind":             two + "{}",
		"truncated":               two[:len(two)-1],
		"trailing comma":          replace("]}", ",]}"),
		"nested too deeply":       strings.Repeat("[", 20_000),
		"legacy form, as of keys": "k:" + encoded,
	} {
		t.Run("invalid: "+name, func(t *testing.T) {
			t.Parallel()
			keys, err := seal.Parse(text)
			require.Error(t, err)
			require.Nil(t, keys)
			requireQuotesNothing(t, err, encoded, otherEncoded, string(oldSecret), string(newSecret))
		})
	}
}

func TestParseNamesTheFault(t *testing.T) {
	t.Parallel()
	const form = `the key ring must have exactly this form: {"keys":[{"id":"...","key":"..."}]}`
	one, two := ringText(oldSecret), ringText(newSecret, oldSecret)
	for text, want := range map[string]string{
		one[1:]:                                 form,
		strings.Replace(one, `"id"`, `"ID"`, 1): form,
		`{"keys":[]}`:                           "the key ring must have 1 to 2 keys, not 0",
		ringText(oldSecret, newSecret, oldSecret):          "the key ring must have 1 to 2 keys, not 3",
		strings.Replace(one, "aes256-seal:", "", 1):        "key 1: it must be aes256-seal: and the base64url form of 32 bytes, without padding",
		ringText(oldSecret, newSecret[:31]):                "key 2: it must be aes256-seal: and the base64url form of 32 bytes, without padding",
		strings.Replace(two, `"id":"`, `"id":"0`, 1):       "key 1: the id does not belong to the key",
		strings.Replace(two, `},{"id":"`, `},{"id":"0`, 1): "key 2: the id does not belong to the key",
		ringText(oldSecret, oldSecret):                     "key 2: it repeats the first key",
	} {
		t.Run(want, func(t *testing.T) {
			t.Parallel()
			_, err := seal.Parse(text)
			require.EqualError(t, err, want)
		})
	}
}

// requireQuotesNothing requires that the error has no piece of a secret.
func requireQuotesNothing(t *testing.T, err error, secrets ...string) {
	t.Helper()
	for _, secret := range secrets {
		for i := range len(secret) - 6 {
			require.NotContains(t, err.Error(), secret[i:i+6])
		}
	}
}

func TestKeysDoNotShow(t *testing.T) {
	t.Parallel()
	keys := ring(t, newSecret, oldSecret)
	wrapped := struct {
		Keys   *seal.Keys
		hidden *seal.Keys
		inner  seal.Keys
	}{keys, keys, *keys}
	var out bytes.Buffer
	for _, v := range []any{keys, *keys, wrapped, &wrapped, []seal.Keys{*keys}, map[string]seal.Keys{"k": *keys}} {
		for _, format := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d"} {
			fmt.Fprintf(&out, format+"\n", v)
		}
		for _, handler := range []slog.Handler{slog.NewTextHandler(&out, nil), slog.NewJSONHandler(&out, nil)} {
			slog.New(handler).Info("keys", "keys", v)
		}
		text, err := json.Marshal(v)
		require.NoError(t, err)
		out.Write(text)
	}
	shown := strings.ToLower(out.String())
	for _, secret := range [][]byte{oldSecret[:4], newSecret[:4]} {
		for _, form := range []string{
			string(secret), hex.EncodeToString(secret), base64.RawURLEncoding.EncodeToString(secret[:3]),
			strings.Trim(fmt.Sprintf("%d", secret), "[]"), strings.Trim(fmt.Sprintf("%#v", secret), "[]byte{}"),
		} {
			require.NotContains(t, shown, strings.ToLower(form))
		}
	}
}

func TestPrefix(t *testing.T) {
	t.Parallel()
	first := seal.Generate()
	second := first.Rotate()
	for name, keys := range map[string]*seal.Keys{"one key": first, "two keys": second} {
		t.Run("the texts of the first of "+name+" begin with it", func(t *testing.T) {
			sealed, err := keys.Seal("p", "r", 1, nil)
			require.NoError(t, err)
			require.Equal(t, sealed[:9], keys.Prefix())
		})
	}
	t.Run("each key has another", func(t *testing.T) { require.NotEqual(t, first.Prefix(), second.Prefix()) })
	t.Run("without a key there is none", func(t *testing.T) { require.Nil(t, new(seal.Keys).Prefix()) })
}
