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

// APIKeyPattern finds API keys in text: it is for secret scanners (RE2; PCRE reads
// it alike). What it finds is certainly a key if CheckKey says so, too.
const APIKeyPattern = `prk_[0-9a-hjkmnp-tv-z]{40}[0-3][0-9a-hjkmnp-tv-z]{6}`

const (
	keyPrefix      = "prk_"
	keyRandomBytes = 25 // 200 bits: 40 characters, and none left over
	checksumLength = 7  // 32 bits
	keyLength      = len(keyPrefix) + keyRandomBytes*8/5 + checksumLength
)

// No i, l, o and u: they are taken for 1, 1, 0 and v.
var keyEncoding = base32.NewEncoding("0123456789abcdefghjkmnpqrstvwxyz").WithPadding(base32.NoPadding)

// NewAPIKey makes an API key: "prk_", 40 characters of 200 random bits, and 7 of a
// checksum. Whoever holds it is let in, so it is told once and never kept: what
// is kept is its HashAPIKey.
func NewAPIKey() (secret string) {
	random := make([]byte, keyRandomBytes)
	rand.Read(random) // never fails: it ends the process instead
	s := keyPrefix + keyEncoding.EncodeToString(random)
	return s + checksum(s)
}

// checksum is the CRC-32 (IEEE) of s, as a number of 7 digits. It finds every
// run of up to 32 wrong bits: each wrong character, each pair in wrong order.
func checksum(s string) string {
	b := binary.BigEndian.AppendUint64(nil, uint64(crc32.ChecksumIEEE([]byte(s))))
	return keyEncoding.EncodeToString(b[3:])[1:] // 40 bits are 8 digits, and the first is 0
}

// LooksLikeAPIKey says whether s is meant as an API key, right or wrong. A promise
// token never is.
func LooksLikeAPIKey(s string) bool { return strings.HasPrefix(s, keyPrefix) }

// CheckAPIKey says whether NewAPIKey can have made s: the one spelling of its form,
// with the right checksum. It spares the database what was mistyped or cut off;
// it proves nothing.
func CheckAPIKey(s string) bool {
	if len(s) != keyLength || !LooksLikeAPIKey(s) {
		return false
	}
	body, sum := s[:keyLength-checksumLength], s[keyLength-checksumLength:]
	// Every character counts 5 bits of whole bytes, so that one text stands for
	// one key; but the decoder skips line breaks.
	random, err := keyEncoding.DecodeString(body[len(keyPrefix):])
	return err == nil && len(random) == keyRandomBytes && checksum(body) == sum
}

// HashAPIKey is what is stored of an API key: its SHA-256. Neither salt nor a slow
// hash is needed where nobody can guess among 2^200 keys.
func HashAPIKey(s string) []byte {
	h := sha256.Sum256([]byte(s))
	return h[:]
}

// SameHash compares two hashes, in a time that does not tell where they differ.
func SameHash(a, b []byte) bool { return subtle.ConstantTimeCompare(a, b) == 1 }
