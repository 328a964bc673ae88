package promise

// LegacyKID is the KID of a row without a public key. While that row is valid,
// tokens that earlier releases signed with HMAC are valid.
const LegacyKID = "hs256"

// A SigningKey is the public half of a key that signs promise tokens. Its KID is
// derived from it and fixes the algorithm.
type SigningKey struct {
	KID       string
	PublicKey []byte // nil for LegacyKID
}
