package promise

import (
	"encoding/base64"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/google/uuid"
)

// An Identifier names a promise, by its id or by its idempotency key.
type Identifier struct {
	id  uuid.UUID
	key string
}

// ByID identifies a promise by its id.
func ByID(id uuid.UUID) Identifier { return Identifier{id: id} }

// ByIdempotencyKey identifies a promise by its idempotency key. It fails as
// CheckIdempotencyKey does.
func ByIdempotencyKey(key string) (Identifier, error) {
	if err := CheckIdempotencyKey(key); err != nil {
		return Identifier{}, err
	}
	return Identifier{key: key}, nil
}

// ID returns the promise's id. ok is false if i names an idempotency key.
func (i Identifier) ID() (id uuid.UUID, ok bool) { return i.id, i.key == "" }

// IdempotencyKey returns the idempotency key. ok is false if i names an id.
func (i Identifier) IdempotencyKey() (key string, ok bool) { return i.key, i.key != "" }

// String returns the form that ParseIdentifier reads and that a URL's path can
// carry unescaped: "id:{uuid}"; "key:{key}" if every character of the key is
// plain in a path; "key64:{key in base64url}" for every other key.
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

// plainInPath reports whether a path segment can carry a key unescaped. Such a
// key has only unreserved characters of RFC 3986 and colons. A key of dots alone
// is not plain, because clients and proxies read it as a step to another folder.
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

// ParseIdentifier parses "id:{uuid}", "key:{idempotency key}" or "key64:{the key
// in base64url}". The prefix is lower case. The text after "key:" is the key,
// undecoded. After "key64:" only the canonical encoding is valid (no padding, no
// line breaks, spare bits zero), so that a key has one spelling in base64url.
// ParseIdentifier fails with CodeInvalidIdentifier, or as ParseID and
// ByIdempotencyKey do.
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

// decode64 decodes canonical base64url: without padding or line breaks, and with
// zero spare bits.
func decode64(s string) (string, bool) {
	b, err := base64.RawURLEncoding.DecodeString(s)
	return string(b), err == nil && base64.RawURLEncoding.EncodeToString(b) == s
}

// ParseID parses a promise's id. It fails with CodeInvalidUUID. For an id of the
// legacy form "{workflow execution id}:{name}" the error says what to send
// instead.
func ParseID(s string) (uuid.UUID, error) {
	id, ok := parseUUID(s)
	if !ok {
		detail := "Invalid UUID format for promise ID"
		if _, composite := parseUUID(s[:min(len(s), 36)]); composite && len(s) > 36 && s[36] == ':' {
			detail += ". This is a pre-UUID id, which is an idempotency key now. Send key:<id> instead of id:<id>."
		}
		return uuid.Nil, Fail(CodeInvalidUUID, detail)
	}
	return id, nil
}

// parseUUID accepts only the canonical 8-4-4-4-12 form of RFC 9562, with digits
// of either case. uuid.Parse also accepts a URN, braces and bare digits.
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
// unless key is 1 to MaxLength characters. It refuses U+FFFD: a decoder puts that
// in place of a character that it lost, and the key would then be another one.
func CheckIdempotencyKey(key string) error {
	if strings.ContainsRune(key, utf8.RuneError) {
		return Fail(CodeInvalidUTF8, "An idempotency key must be valid UTF-8 without U+FFFD.")
	}
	return checkText(key, CodeInvalidKey, "An idempotency key")
}

// MaxCommentLength is the limit of a settlement's comment, and of a
// cancellation's reason, in characters.
const MaxCommentLength = 1000

// CheckComment fails with CodeOutOfRange, CodeNULCharacter or CodeInvalidUTF8
// unless comment is 1 to MaxCommentLength characters.
func CheckComment(comment string) error {
	return checkLength(comment, MaxCommentLength, CodeOutOfRange, "A comment")
}

func checkText(s string, code Code, subject string) error {
	return checkLength(s, MaxLength, code, subject)
}

func checkLength(s string, limit int, code Code, subject string) error {
	switch {
	case !utf8.ValidString(s):
		return Fail(CodeInvalidUTF8, subject+" must be valid UTF-8.")
	case strings.ContainsRune(s, 0):
		return Fail(CodeNULCharacter, subject+" must not contain a NUL character.")
	case s == "" || utf8.RuneCountInString(s) > limit:
		return Fail(code, subject+" must have 1 to "+strconv.Itoa(limit)+" characters.")
	}
	return nil
}
