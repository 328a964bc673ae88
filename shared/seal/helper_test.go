package seal_test

import (
	"bytes"
	"encoding/hex"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/seal"
)

const (
	purpose = "destination.secret"
	row     = "7d9f1f3a-3c1e-4e5b-8a57-0c2f6f1f4a11"
	version = 3
)

var (
	oldSecret = bytes.Repeat([]byte("o"), 32)
	newSecret = bytes.Repeat([]byte("n"), 32)
	plaintext = []byte("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
)

// ring returns a ring of the secrets.
func ring(t testing.TB, secrets ...[]byte) *seal.Keys {
	t.Helper()
	keys, err := seal.Parse(ringText(secrets...))
	require.NoError(t, err)
	return keys
}

// sealed returns the sealed plaintext.
func sealed(t testing.TB, keys *seal.Keys) []byte {
	t.Helper()
	text, err := keys.Seal(purpose, row, version, plaintext)
	require.NoError(t, err)
	return text
}

// requireOpens requires that the keys open the text of plaintext.
func requireOpens(t testing.TB, keys *seal.Keys, text []byte) {
	t.Helper()
	got, err := keys.Open(purpose, row, version, text)
	require.NoError(t, err)
	require.Equal(t, plaintext, got)
}

// requireRefused requires that Open refuses the text with the error that gives no reason.
func requireRefused(t testing.TB, keys *seal.Keys, text []byte, reason ...any) {
	t.Helper()
	got, err := keys.Open(purpose, row, version, text)
	require.Equal(t, seal.ErrRefused, err, reason...)
	require.Nil(t, got, reason...)
}

func unhex(t testing.TB, text string) []byte {
	t.Helper()
	b, err := hex.DecodeString(text)
	require.NoError(t, err)
	return b
}
