package auth

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base32"
	"encoding/binary"
	"hash/crc32"
	"strings"
)

// APIKeyPattern is a regular expression that finds API keys in text, for secret
// scanners (RE2 and PCRE). CheckAPIKey confirms a match.
const APIKeyPattern = `prk_[0-9a-hjkmnp-tv-z]{40}[0-3][0-9a-hjkmnp-tv-z]{6}`

const (
	apiKeyPrefix      = "prk_"
	apiKeyRandomBytes = 25 // 200 bits: exactly 40 characters
	checksumLength    = 7  // 32 bits
	apiKeyLength      = len(apiKeyPrefix) + apiKeyRandomBytes*8/5 + checksumLength
)

// apiKeyEncoding has no i, l, o and u, because readers take them for 1, 1, 0 and v.
var apiKeyEncoding = base32.NewEncoding("0123456789abcdefghjkmnpqrstvwxyz").WithPadding(base32.NoPadding)

// NewAPIKey returns a new API key: "prk_", 40 characters of 200 random bits, and 7
// characters of checksum. The key is a secret: show it to its owner once, and store
// only its HashAPIKey.
func NewAPIKey() (secret string) {
	random := make([]byte, apiKeyRandomBytes)
	rand.Read(random) // never fails: it ends the process instead
	s := apiKeyPrefix + apiKeyEncoding.EncodeToString(random)
	return s + checksum(s)
}

// checksum returns the CRC-32 (IEEE) of s as a number of 7 digits. It detects every
// run of up to 32 wrong bits, so each wrong character and each swapped pair.
func checksum(s string) string {
	b := binary.BigEndian.AppendUint64(nil, uint64(crc32.ChecksumIEEE([]byte(s))))
	return apiKeyEncoding.EncodeToString(b[3:])[1:] // 40 bits are 8 digits, and the first is 0
}

// LooksLikeAPIKey reports whether s has the prefix of an API key, valid or not. No
// promise token has it.
func LooksLikeAPIKey(s string) bool { return strings.HasPrefix(s, apiKeyPrefix) }

// CheckAPIKey reports whether s has the exact form of an API key, with the right
// checksum. It saves a database look-up for a mistyped or truncated key. It does not
// prove that the key exists.
func CheckAPIKey(s string) bool {
	if len(s) != apiKeyLength || !LooksLikeAPIKey(s) {
		return false
	}
	body, sum := s[:apiKeyLength-checksumLength], s[apiKeyLength-checksumLength:]
	// The 40 characters encode whole bytes without spare bits, so each key has one
	// spelling. The decoder skips line breaks, so the decoded length counts, too.
	random, err := apiKeyEncoding.DecodeString(body[len(apiKeyPrefix):])
	return err == nil && len(random) == apiKeyRandomBytes && checksum(body) == sum
}

// HashAPIKey returns the SHA-256 hash of an API key, which is stored in place of the
// key. A salt or a slow hash would add nothing: 2^200 possible keys cannot be
// guessed.
func HashAPIKey(s string) []byte {
	h := sha256.Sum256([]byte(s))
	return h[:]
}

// SameHash reports whether two hashes are equal, in a time that does not depend on
// their contents.
func SameHash(a, b []byte) bool { return subtle.ConstantTimeCompare(a, b) == 1 }
