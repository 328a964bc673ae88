package promise

// LegacyKID is the KID of a row without a key: while the row is valid, tokens
// that earlier releases signed with HMAC are valid too.
const LegacyKID = "hs256"

// SigningKey is the public half of a key that signs promise tokens. Its KID
// follows from it, and fixes the algorithm.
type SigningKey struct {
	KID       string
	PublicKey []byte // nil for LegacyKID
}
