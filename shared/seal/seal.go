// Package seal encrypts the secrets that the database stores, such as the signing secrets
// of destinations. It uses AES-256-GCM, and the key ring is a secret in Secrets Manager.
//
// A sealed text belongs to one purpose, one row and one version of it. Nothing else
// opens it, so it is of no use in another column, in another row, or in the same row
// after a change. It has this form:
//
//	1 byte    the format: 1
//	8 bytes   the id of the sealing key
//	12 bytes  a random nonce
//	n bytes   the encrypted plaintext
//	16 bytes  the tag
//
// The first 9 bytes are the header. The additional data is the header, the purpose
// and the row, each after its length in bytes, and the version. Lengths and version
// are 64-bit integers in big-endian order.
//
// # How many texts one key may seal
//
// Two texts with the same key and nonce reveal the XOR of their plaintexts and allow
// forgeries. Nonces are random, so NIST SP 800-38D, section 8.3, limits a key to 2^32
// texts, over all processes. The probability that a nonce repeats is then at most
// 2^-32. Opening a text does not count. No process counts the texts. One rotation a
// year keeps the limit as long as all processes together seal at most 130 texts a
// second on average. A million texts a day would take 11 years to reach the limit.
//
// # Rotation
//
// Rotate puts a new key first. The former key still opens its texts, which do not begin
// with Prefix. The next rotation removes the former key, and its texts are lost. Before
// it, the first key must have resealed all texts, and no process may still seal with
// the former key.
//
// A process keeps the ring in an auth.Cached, for auth.KeysMaxStale at most. If
// HasKeyOf reports false for a text, another process has sealed it after a rotation.
// The process then calls auth.Cached.Refresh and opens the text with the new ring. The
// ring from Refresh may be auth.KeysRefreshInterval old. If it does not have the key
// either, the secret is unavailable and a later attempt may succeed.
package seal

import (
	"encoding/binary"
	"errors"
)

// ErrRefused is the only error of Open. It is the same for every reason.
var ErrRefused = errors.New("the sealed text was refused")

// Seal encrypts the plaintext for one purpose, one row and one version with the first
// key. purpose names the table and the column. Seal fails if purpose or row is empty,
// or if there is no key. Two calls never return the same text.
func (k *Keys) Seal(purpose, row string, version int, plaintext []byte) ([]byte, error) {
	switch {
	case len(k.ring) == 0:
		return nil, errors.New("the ring has no sealing key")
	case purpose == "" || row == "":
		return nil, errors.New("purpose and row must not be empty")
	}
	first := k.ring[0]
	aead := first.aead()
	sealed := make([]byte, headerBytes, headerBytes+len(plaintext)+aead.Overhead())
	copy(sealed, first.header[:])
	return aead.Seal(sealed, nil, plaintext, first.additionalData(purpose, row, version)), nil
}

// Open returns the plaintext of a text that Seal returned for the same purpose, row
// and version. It returns ErrRefused for every other text, and if the ring does not
// have the key.
func (k *Keys) Open(purpose, row string, version int, sealed []byte) ([]byte, error) {
	key, ok := k.find(sealed)
	if !ok {
		return nil, ErrRefused
	}
	plaintext, err := key.aead().Open(nil, nil, sealed[headerBytes:], key.additionalData(purpose, row, version))
	if err != nil {
		return nil, ErrRefused
	}
	return plaintext, nil
}

// NeedsReseal reports whether a key other than the first sealed the text. It reads the
// header only.
func (k *Keys) NeedsReseal(sealed []byte) bool {
	key, ok := k.find(sealed)
	return !ok || key.header != k.ring[0].header
}

// HasKeyOf reports whether the ring has the key that sealed the text. It reads the
// header only.
func (k *Keys) HasKeyOf(sealed []byte) bool {
	_, ok := k.find(sealed)
	return ok
}

// additionalData returns the data that binds a sealed text to its key and its place.
func (k key) additionalData(purpose, row string, version int) []byte {
	data := make([]byte, 0, headerBytes+len(purpose)+len(row)+3*8)
	data = append(data, k.header[:]...)
	for _, part := range [...]string{purpose, row} {
		data = binary.BigEndian.AppendUint64(data, uint64(len(part)))
		data = append(data, part...)
	}
	return binary.BigEndian.AppendUint64(data, uint64(version))
}
