package promise

import (
	"encoding/base64"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/google/uuid"
)

// Identifier names a promise from outside: by its id or by its idempotency key,
// never both.
type Identifier struct {
	id  uuid.UUID
	key string
}

// ByID identifies a promise by its id.
func ByID(id uuid.UUID) Identifier { return Identifier{id: id} }

// ByIdempotencyKey identifies a promise by its idempotency key. Its error is that of
// CheckIdempotencyKey.
func ByIdempotencyKey(key string) (Identifier, error) {
	if err := CheckIdempotencyKey(key); err != nil {
		return Identifier{}, err
	}
	return Identifier{key: key}, nil
}

// ID returns the id, if it is by id.
func (i Identifier) ID() (id uuid.UUID, ok bool) { return i.id, i.key == "" }

// Key returns the idempotency key, if it is by key.
func (i Identifier) IdempotencyKey() (key string, ok bool) { return i.key, i.key != "" }

// String returns the form that works everywhere, in a URL's path too, and that
// ParseIdentifier reads: "id:{uuid}", "key:{key}" where every character of the
// key survives a path as it is, and "key64:{key in base64url}" for all others.
func (i Identifier) String() string {
	switch {
	case i.key == "":
		return "id:" + i.id.String()
	case plainInPath(i.key):
		return "key:" + i.key
	default:
		return "key64:" + base64.RawURLEncoding.EncodeToString([]byte(i.key))
	}
}

// plainInPath reports whether a key needs no encoding in a path segment: it has
// unreserved characters of RFC 3986 and colons alone. Clients, proxies and
// filters treat dots that stand alone as a step to another folder, so that a key
// of nothing but dots is not plain.
func plainInPath(key string) bool {
	other := strings.IndexFunc(key, func(r rune) bool {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9':
			return false
		}
		return !strings.ContainsRune("._~:-", r)
	})
	return other < 0 && strings.Trim(key, ".") != ""
}

// ParseIdentifier reads "id:{uuid}", "key:{idempotency key}" or "key64:{the key
// in base64url}". The prefix is lower case. Everything after "key:" is the key as
// it stands. After "key64:" only the canonical encoding is valid (no padding, no
// line breaks, spare bits zero), so that a key has one spelling in base64url.
// ParseIdentifier fails with CodeInvalidIdentifier, or as ParseID and ByKey do.
func ParseIdentifier(s string) (Identifier, error) {
	if rest, ok := strings.CutPrefix(s, "id:"); ok {
		id, err := ParseID(rest)
		return ByID(id), err
	}
	if rest, ok := strings.CutPrefix(s, "key:"); ok {
		return ByIdempotencyKey(rest)
	}
	if rest, ok := strings.CutPrefix(s, "key64:"); ok {
		key, ok := decode64(rest)
		if !ok {
			return Identifier{}, Fail(CodeInvalidIdentifier,
				"key64: takes the key's UTF-8 bytes in base64url without padding, as in the identifier that create-promise answers with.")
		}
		return ByIdempotencyKey(key)
	}
	return Identifier{}, Fail(CodeInvalidIdentifier,
		"Identifier must start with 'id:' or 'key:' prefix, or 'key64:' for a key in base64url")
}

// decode64 decodes canonical base64url: without padding and line breaks, and with
// spare bits that are zero.
func decode64(s string) (string, bool) {
	b, err := base64.RawURLEncoding.DecodeString(s)
	return string(b), err == nil && base64.RawURLEncoding.EncodeToString(b) == s
}

// ParseID reads a promise's id. It fails with CodeInvalidUUID. An id of the
// form "{workflow execution id}:{name}", which promises had before they had
// UUIDs, is told what to do.
func ParseID(s string) (uuid.UUID, error) {
	id, ok := parseUUID(s)
	if !ok {
		detail := "Invalid UUID format for promise ID"
		if _, composite := parseUUID(s[:min(len(s), 36)]); composite && len(s) > 36 && s[36] == ':' {
			detail += ". This is an id of the form before UUIDs: it is an idempotency key now. Put key: before it, not id:."
		}
		return uuid.Nil, Fail(CodeInvalidUUID, detail)
	}
	return id, nil
}

// parseUUID takes the canonical 8-4-4-4-12 form of RFC 9562 only, with digits
// of either case. uuid.Parse alone also takes a URN, braces and bare digits.
func parseUUID(s string) (uuid.UUID, bool) {
	if len(s) != 36 {
		return uuid.Nil, false
	}
	id, err := uuid.Parse(s)
	return id, err == nil
}

// MaxLength is the limit of a name and of an idempotency key, in characters.
const MaxLength = 255

// CheckName fails with CodeInvalidName, CodeNULCharacter or CodeInvalidUTF8
// unless name is 1 to MaxLength characters.
func CheckName(name string) error { return checkText(name, CodeInvalidName, "A name") }

// CheckIdempotencyKey fails with CodeInvalidKey, CodeNULCharacter or CodeInvalidUTF8
// unless key is 1 to MaxLength characters. U+FFFD is refused: it stands where a
// decoder on the way lost a character, and the key is then another one.
func CheckIdempotencyKey(key string) error {
	if strings.ContainsRune(key, utf8.RuneError) {
		return Fail(CodeInvalidUTF8, "An idempotency key must be valid UTF-8, without U+FFFD.")
	}
	return checkText(key, CodeInvalidKey, "An idempotency key")
}

// MaxCommentLength is the limit of a settlement's comment, and of a
// cancellation's reason, in characters.
const MaxCommentLength = 1000

// CheckComment fails with CodeOutOfRange, CodeNULCharacter or CodeInvalidUTF8
// unless comment is 1 to MaxCommentLength characters.
func CheckComment(comment string) error {
	return checkLength(comment, MaxCommentLength, CodeOutOfRange, "It")
}

func checkText(s string, code Code, what string) error {
	return checkLength(s, MaxLength, code, what)
}

func checkLength(s string, limit int, code Code, what string) error {
	switch {
	case !utf8.ValidString(s):
		return Fail(CodeInvalidUTF8, what+" must be valid UTF-8.")
	case strings.ContainsRune(s, 0):
		return Fail(CodeNULCharacter, what+" must not hold a NUL character.")
	case s == "" || utf8.RuneCountInString(s) > limit:
		return Fail(code, what+" has 1 to "+strconv.Itoa(limit)+" characters.")
	}
	return nil
}
