package seal

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

const (
	// maxKeys is the size of a ring between two rotations.
	maxKeys = 2

	secretBytes = 32 // of AES-256
	idBytes     = 8
	headerBytes = 1 + idBytes

	// format is the first byte of each sealed text.
	format = 1

	// secretPrefix begins the text of a sealing key, for secret scanners.
	secretPrefix = "aes256-seal:"

	// KeyPattern is a regular expression that finds sealing keys in text, for secret
	// scanners (RE2 and PCRE).
	KeyPattern = secretPrefix + `[A-Za-z0-9_-]{43}`
)

// A Keys is a ring of one or two sealing keys. The first key seals, and both open. The
// zero Keys seals and opens nothing. A Keys never changes, it is safe for concurrent
// use, and neither fmt nor slog shows a key.
type Keys struct{ ring []key }

// A key is a sealing key. Its id is a hash of it, so an id never names two keys.
type key struct {
	header [headerBytes]byte  // begins each text that the key sealed
	secret func() []byte      // a function, because fmt calls none
	aead   func() cipher.AEAD // the same
}

// newKey returns the sealing key of secretBytes bytes.
func newKey(secret []byte) key {
	block, err := aes.NewCipher(secret)
	if err != nil {
		panic(err) // the length is wrong
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		panic(err) // it takes every AES cipher
	}
	k := key{secret: func() []byte { return secret }, aead: func() cipher.AEAD { return aead }}
	hash := sha256.Sum256(append([]byte("promises sealing key id:"), secret...))
	k.header[0] = format
	copy(k.header[1:], hash[:])
	return k
}

// Prefix returns the bytes that begin each text that the first key seals, or nil for
// the zero Keys. No other key's texts begin with them.
func (k *Keys) Prefix() []byte {
	if len(k.ring) == 0 {
		return nil
	}
	return bytes.Clone(k.ring[0].header[:])
}

func (k key) id() string { return hex.EncodeToString(k.header[1:]) }

// Generate returns a ring with one random key.
func Generate() *Keys { return new(Keys).Rotate() }

// Rotate returns a ring with a new random key in front of the first key of k. It does
// not change k.
func (k *Keys) Rotate() *Keys {
	secret := make([]byte, secretBytes)
	rand.Read(secret) //nolint:errcheck // never fails: it ends the process instead
	return &Keys{append([]key{newKey(secret)}, k.ring[:min(len(k.ring), maxKeys-1)]...)}
}

// Text returns the ring as JSON, on one line. It is a secret. An empty ring has no valid text.
func (k *Keys) Text() string {
	entries := make([]string, len(k.ring))
	for i, key := range k.ring {
		secret := secretPrefix + base64.RawURLEncoding.EncodeToString(key.secret())
		entries[i] = `{"id":"` + key.id() + `","key":"` + secret + `"}`
	}
	return `{"keys":[` + strings.Join(entries, ",") + `]}`
}

var errForm = errors.New(`the key ring must have exactly this form: {"keys":[{"id":"...","key":"..."}]}`)

// Parse parses the text that Keys.Text returns. It accepts white space between the
// parts of the JSON and no other difference. Its error quotes no part of the text.
func Parse(text string) (*Keys, error) {
	var parsed struct{ Keys []struct{ ID, Key string } }
	if json.Unmarshal([]byte(text), &parsed) != nil {
		return nil, errForm
	}
	if n := len(parsed.Keys); n < 1 || n > maxKeys {
		return nil, fmt.Errorf("the key ring must have 1 to %d keys, not %d", maxKeys, n)
	}
	k := new(Keys)
	for i, entry := range parsed.Keys {
		secret, err := parseSecret(entry.Key)
		if err != nil {
			return nil, fmt.Errorf("key %d: %w", i+1, err)
		}
		added := newKey(secret)
		switch {
		case entry.ID != added.id():
			return nil, fmt.Errorf("key %d: the id does not belong to the key", i+1)
		case i > 0 && added.header == k.ring[0].header:
			return nil, fmt.Errorf("key %d: it repeats the first key", i+1)
		}
		k.ring = append(k.ring, added)
	}
	// encoding/json also accepts unknown and repeated names, names in any case, escapes
	// and invalid Unicode.
	var compact bytes.Buffer
	if err := json.Compact(&compact, []byte(text)); err != nil || compact.String() != k.Text() {
		return nil, errForm
	}
	return k, nil
}

func parseSecret(text string) ([]byte, error) {
	encoded, ok := strings.CutPrefix(text, secretPrefix)
	secret, err := base64.RawURLEncoding.Strict().DecodeString(encoded)
	if !ok || err != nil || len(secret) != secretBytes {
		return nil, fmt.Errorf("it must be %s and the base64url form of %d bytes, without padding", secretPrefix, secretBytes)
	}
	return secret, nil
}

// find returns the key that the header of a sealed text names.
func (k *Keys) find(sealed []byte) (key, bool) {
	for _, key := range k.ring {
		if bytes.HasPrefix(sealed, key.header[:]) {
			return key, true
		}
	}
	return key{}, false
}
