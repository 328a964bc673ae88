package webhook

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base32"
	"encoding/hex"
	"errors"
	"strings"

	"github.com/flovyn/promises/shared/promise"
)

const (
	urlKeyBytes   = 32
	checksumBytes = 10
	checksumText  = 16 // characters of checksumBytes in base32
)

// checksumAlphabet is that of RFC 4648, in lower case.
var checksumAlphabet = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// A URLKey makes and checks the checksums in the URLs of sources, so that a name that an
// outsider invents never reaches the database. It is a secret of the deployment: another
// key makes every URL invalid. The zero URLKey accepts no URL. A URLKey never changes, it
// is safe for concurrent use, and neither fmt nor slog shows it.
type URLKey struct {
	secret func() []byte // a function, because fmt calls none
}

func newURLKey(secret []byte) URLKey { return URLKey{secret: func() []byte { return secret }} }

// NewURLKey returns a random key.
func NewURLKey() URLKey {
	secret := make([]byte, urlKeyBytes)
	_, _ = rand.Read(secret) // it never fails: it ends the process instead
	return newURLKey(secret)
}

// ParseURLKey returns the key with this text, which has 64 hexadecimal digits. Its error
// does not contain the text.
func ParseURLKey(text string) (URLKey, error) {
	secret, err := hex.DecodeString(text)
	if err != nil || len(secret) != urlKeyBytes {
		return URLKey{}, errors.New("the key of the sources' URLs must have 64 hexadecimal digits")
	}
	return newURLKey(secret), nil
}

// Text returns the text from which ParseURLKey makes the key. It is a secret.
func (k URLKey) Text() string {
	if k.secret == nil {
		return ""
	}
	return hex.EncodeToString(k.secret())
}

// Segment returns the last segment of a source's URL: the name, a hyphen, and the
// checksum of the tenant's slug and the name. It is the same at every call.
func (k URLKey) Segment(slug, name string) string { return name + "-" + k.checksum(slug, name) }

// checksum returns the first 10 bytes of HMAC-SHA-256 as 16 lower-case characters in
// base32, or an empty text for the zero URLKey.
func (k URLKey) checksum(slug, name string) string {
	if k.secret == nil {
		return ""
	}
	mac := hmac.New(sha256.New, k.secret())
	mac.Write([]byte(slug + "\x00" + name))
	return checksumAlphabet.EncodeToString(mac.Sum(nil)[:checksumBytes])
}

// Parse returns the name of the source in a segment, and reports whether Segment made
// the segment for this slug. The time of the comparison does not depend on the checksum.
func (k URLKey) Parse(slug, segment string) (name string, ok bool) {
	hyphen := strings.LastIndexByte(segment, '-')
	if hyphen < 0 || len(segment)-hyphen-1 != checksumText {
		return "", false
	}
	name = segment[:hyphen]
	if promise.CheckSourceName(name) != nil {
		return "", false
	}
	if subtle.ConstantTimeCompare([]byte(k.checksum(slug, name)), []byte(segment[hyphen+1:])) != 1 {
		return "", false
	}
	return name, true
}
