package seal_test

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/seal"
)

// The oracle is a second implementation of the package's documented forms. It encrypts as NIST SP 800-38D defines it, with nothing but
// the block cipher of the standard library.

// oracleID returns the id of a sealing key.
func oracleID(secret []byte) []byte {
	hash := sha256.Sum256([]byte("promises sealing key id:" + string(secret)))
	return hash[:8]
}

// ringText returns the text of a ring.
func ringText(secrets ...[]byte) string {
	var entries []string
	for _, secret := range secrets {
		entries = append(entries, `{"id":"`+hex.EncodeToString(oracleID(secret))+`","key":"aes256-seal:`+base64.RawURLEncoding.EncodeToString(secret)+`"}`)
	}
	return `{"keys":[` + strings.Join(entries, ",") + `]}`
}

// oracleSeal returns the text that Seal returns if it draws this nonce.
func oracleSeal(secret, nonce []byte, purpose, row string, version int, plaintext []byte) []byte {
	header := append([]byte{1}, oracleID(secret)...)
	length := func(n int) string { return string(binary.BigEndian.AppendUint64(nil, uint64(n))) }
	additional := string(header) + length(len(purpose)) + purpose + length(len(row)) + row + length(version)
	return append(append(header, nonce...), oracleGCM(secret, nonce, plaintext, []byte(additional))...)
}

// oracleGCM returns the ciphertext and the tag.
func oracleGCM(secret, nonce, plaintext, additional []byte) []byte {
	block, err := aes.NewCipher(secret)
	if err != nil {
		panic(err)
	}
	out := make([]byte, len(plaintext))
	for i := range out {
		out[i] = plaintext[i] ^ counterBlock(block, nonce, 2+i/16)[i%16]
	}
	var y [16]byte
	h := encrypt(block, make([]byte, 16))
	for _, part := range [][]byte{additional, out} {
		for len(part) > 0 {
			n := min(16, len(part))
			y = multiply(xor(y, part[:n]), h)
			part = part[n:]
		}
	}
	bits := binary.BigEndian.AppendUint64(nil, uint64(8*len(additional)))
	y = multiply(xor(y, binary.BigEndian.AppendUint64(bits, uint64(8*len(out)))), h)
	tag := counterBlock(block, nonce, 1)
	tag = xor(tag, y[:])
	return append(out, tag[:]...)
}

func counterBlock(block cipher.Block, nonce []byte, counter int) [16]byte {
	return encrypt(block, binary.BigEndian.AppendUint32(append([]byte{}, nonce...), uint32(counter)))
}

func encrypt(block cipher.Block, in []byte) (out [16]byte) {
	block.Encrypt(out[:], in)
	return out
}

// xor combines a block with bytes that zeros complete to a block.
func xor(block [16]byte, b []byte) [16]byte {
	for i := range b {
		block[i] ^= b[i]
	}
	return block
}

// multiply multiplies in the field of GHASH, bit by bit.
func multiply(x, v [16]byte) (z [16]byte) {
	for i := range 128 {
		if x[i/8]>>(7-i%8)&1 == 1 {
			z = xor(z, v[:])
		}
		carry := v[15] & 1
		for j := 15; j > 0; j-- {
			v[j] = v[j]>>1 | v[j-1]<<7
		}
		v[0] = v[0]>>1 ^ carry*0xe1
	}
	return z
}

// The vectors are test cases 13 to 16 of the GCM specification that was submitted to NIST, and one of NIST's Cryptographic Algorithm
// Validation Program.
func TestVectors(t *testing.T) {
	t.Parallel()
	const (
		zeros     = "00000000000000000000000000000000"
		specKey   = "feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308"
		specNonce = "cafebabefacedbaddecaf888"
		specPlain = "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a721c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39"
		specText  = "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662"
	)
	for _, v := range []struct{ name, key, nonce, plaintext, additional, ciphertext, tag string }{
		{"case 13", zeros + zeros, zeros[:24], "", "", "", "530f8afbc74536b9a963b4f1c4cb738b"},
		{"case 14", zeros + zeros, zeros[:24], zeros, "", "cea7403d4d606b6e074ec5d3baf39d18", "d0d1c8a799996bf0265b98b5d48ab919"},
		{"case 15", specKey, specNonce, specPlain + "1aafd255", "", specText + "898015ad", "b094dac5d93471bdec1a502270e3cc6c"},
		{"case 16", specKey, specNonce, specPlain, "feedfacedeadbeeffeedfacedeadbeefabaddad2", specText, "76fc6ece0f4e1768cddf8853bb2d551b"},
		{
			"CAVP", "83688deb4af8007f9b713b47cfa6c73e35ea7a3aa4ecdb414dded03bf7a0fd3a", "0b459724904e010a46901cf3",
			"33d893a2114ce06fc15d55e454cf90c3", "794a14ccd178c8ebfd1379dc704c5e208f9d8424",
			"cc66bee423e3fcd4c0865715e9586696", "0fb291bd3dba94a1dfd8b286cfb97ac5",
		},
	} {
		t.Run(v.name, func(t *testing.T) {
			t.Parallel()
			key, nonce, want := unhex(t, v.key), unhex(t, v.nonce), unhex(t, v.ciphertext+v.tag)
			require.Equal(t, want, oracleGCM(key, nonce, unhex(t, v.plaintext), unhex(t, v.additional)), "the oracle")
			got, err := seal.OpenRaw(key, append(nonce, want...), unhex(t, v.additional))
			require.NoError(t, err)
			require.Equal(t, v.plaintext, hex.EncodeToString(got))
		})
	}
}
