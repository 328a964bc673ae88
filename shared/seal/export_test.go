package seal

// OpenRaw decrypts a nonce, ciphertext and tag with the cipher of a sealing key, and with any additional data.
func OpenRaw(secret, sealed, additional []byte) ([]byte, error) {
	return newKey(secret).aead().Open(nil, nil, sealed, additional)
}
