package gateway

import (
	"bytes"
	"encoding/json"
	"iter"
	"slices"
	"strconv"
	"strings"

	"github.com/google/uuid"

	"github.com/flovyn/promises/shared/promise"
)

// An object is a JSON object as it was sent: with exact field names, and with the
// untouched text of the values. encoding/json alone would match names in any case,
// keep the last of two equal names, ignore unknown names, and replace invalid
// Unicode.
type object []field

type field struct {
	name []byte
	raw  json.RawMessage
}

// parseObject reads a JSON text that must be an object of known fields. It skips
// a byte order mark before the text. The returned object shares the text's memory.
func parseObject(text []byte, known []string) (object, error) {
	skipped := 0
	if bytes.HasPrefix(text, byteOrderMark) {
		skipped = len(byteOrderMark)
		text = text[skipped:]
	}
	if err := checkUTF8(text, skipped); err != nil {
		return nil, err
	}
	if !json.Valid(text) {
		return nil, syntaxError(text, skipped)
	}
	if text[skipSpace(text, 0)] != '{' {
		return nil, promise.Fail(promise.CodeWrongType, "The JSON must be an object.")
	}
	o := make(object, 0, 8)
	for f := range fields(text) {
		if !slices.Contains(known, string(f.name)) {
			detail := "There is no such field. This object takes none."
			if len(known) > 0 {
				detail = "There is no such field. The fields are: " + strings.Join(known, ", ") + "."
			}
			return nil, fieldError(string(f.name), promise.CodeUnknownField, detail)
		}
		if _, twice := o.get(string(f.name)); twice {
			return nil, fieldError(string(f.name), promise.CodeDuplicateField, "The field appears twice. Send it once.")
		}
		o = append(o, f)
	}
	return o, nil
}

// fields yields the fields of a JSON object, in their order. It checks nothing: it may
// yield anything for a text that is not JSON, and yields nothing for another JSON
// value.
func fields(text []byte) iter.Seq[field] {
	return func(yield func(field) bool) {
		i := skipSpace(text, 0)
		if byteAt(text, i) != '{' {
			return
		}
		for i = skipSpace(text, i+1); byteAt(text, i) == '"'; i = skipSpace(text, i+1) {
			quoted := text[i:valueEnd(text, i)]
			i = skipSpace(text, i+len(quoted)) + 1 // past the colon
			i = skipSpace(text, i)
			if i >= len(text) {
				return
			}
			f := field{name: quoted[1 : len(quoted)-1], raw: text[i:valueEnd(text, i)]}
			if bytes.IndexByte(quoted, '\\') >= 0 {
				f.name = []byte(unquote(quoted))
			}
			if !yield(f) {
				return
			}
			if i = skipSpace(text, i+len(f.raw)); byteAt(text, i) != ',' {
				return
			}
		}
	}
}

// elements yields the items of a valid JSON array.
func elements(text []byte) iter.Seq[json.RawMessage] {
	return func(yield func(json.RawMessage) bool) {
		for i := skipSpace(text, 1); text[i] != ']'; {
			item := text[i:valueEnd(text, i)]
			if !yield(item) {
				return
			}
			if i = skipSpace(text, i+len(item)); text[i] == ',' {
				i = skipSpace(text, i+1)
			}
		}
	}
}

// byteAt returns 0 beyond the end of the text.
func byteAt(text []byte, i int) byte {
	if i < len(text) {
		return text[i]
	}
	return 0
}

// skipSpace returns the index of the first byte from i on that is not white space.
func skipSpace(text []byte, i int) int {
	for i < len(text) && (text[i] == ' ' || text[i] == '\n' || text[i] == '\t' || text[i] == '\r') {
		i++
	}
	return i
}

// valueEnd returns the index after the JSON value that begins at i.
func valueEnd(text []byte, i int) int {
	for depth := 0; i < len(text); i++ {
		switch text[i] {
		case '"':
			i = quoteEnd(text, i)
			if depth == 0 {
				return min(i+1, len(text))
			}
		case '{', '[':
			depth++
		case '}', ']':
			if depth <= 1 { // the end of this value, or of the object or array around a number or a literal
				return i + depth
			}
			depth--
		case ',', ' ', '\n', '\t', '\r':
			if depth == 0 {
				return i
			}
		}
	}
	return len(text)
}

// quoteEnd returns the index of the closing quote of the JSON string that begins at
// i: the first quote after an even number of backslashes. It is fast for strings
// without a backslash, which make up most of an event.
func quoteEnd(text []byte, i int) int {
	begin := i + 1
	for i = begin; i < len(text); i++ {
		n := bytes.IndexByte(text[i:], '"')
		if n < 0 {
			return len(text)
		}
		i += n
		escapes := 0
		for i-escapes > begin && text[i-escapes-1] == '\\' {
			escapes++
		}
		if escapes%2 == 0 {
			return i
		}
	}
	return len(text)
}

// depth returns how deeply the objects and arrays of a valid JSON value are nested.
func depth(text []byte) (most int) {
	for i, now := 0, 0; i < len(text); i++ {
		switch text[i] {
		case '"':
			i = quoteEnd(text, i)
		case '{', '[':
			now++
			most = max(most, now)
		case '}', ']':
			now--
		}
	}
	return most
}

// unquote decodes a valid JSON string. It returns "" for any other JSON value.
func unquote(raw []byte) string {
	if len(raw) > 1 && raw[0] == '"' && bytes.IndexByte(raw, '\\') < 0 {
		return string(raw[1 : len(raw)-1])
	}
	var s string
	_ = json.Unmarshal(raw, &s)
	return s
}

func (o object) get(name string) (json.RawMessage, bool) {
	i := slices.IndexFunc(o, func(f field) bool { return string(f.name) == name })
	if i < 0 {
		return nil, false
	}
	return o[i].raw, true
}

func (o object) required(name string) (json.RawMessage, error) {
	raw, ok := o.get(name)
	if !ok {
		return nil, fieldError(name, promise.CodeMissingField, name+" is required.")
	}
	return raw, nil
}

func (o object) requiredText(name string) (string, error) {
	raw, err := o.required(name)
	if err != nil {
		return "", err
	}
	return text(name, raw)
}

// optionalText returns nil if the field is absent. It refuses null, which is more
// likely a lost value than a choice.
func (o object) optionalText(name string) (*string, error) {
	raw, ok := o.get(name)
	if !ok {
		return nil, nil
	}
	s, err := text(name, raw)
	return &s, err
}

func (o object) optionalInteger(name string, low, high int64) (*int64, error) {
	raw, ok := o.get(name)
	if !ok {
		return nil, nil
	}
	n, whole, fits := parseWhole(string(raw))
	if !whole {
		return nil, fieldError(name, promise.CodeWrongType, name+" must be a whole number.")
	}
	if !fits || n < low || n > high {
		return nil, fieldError(name, promise.CodeOutOfRange,
			name+" must be from "+strconv.FormatInt(low, 10)+" to "+strconv.FormatInt(high, 10)+".")
	}
	return &n, nil
}

func (o object) flag(name string) (bool, error) {
	raw, ok := o.get(name)
	if !ok || string(raw) == "false" {
		return false, nil
	}
	if string(raw) != "true" {
		return false, fieldError(name, promise.CodeWrongType, name+" must be true or false.")
	}
	return true, nil
}

// promiseIdentifier reads the direct form's "promiseId" or "key".
func (o object) promiseIdentifier() (promise.Identifier, error) {
	id, err := o.optionalText("promiseId")
	if err != nil {
		return promise.Identifier{}, err
	}
	key, err := o.optionalText("key")
	switch {
	case err != nil:
		return promise.Identifier{}, err
	case (id == nil) == (key == nil):
		return promise.Identifier{}, promise.Fail(promise.CodeInvalidIdentifier, "Send promiseId or key, not both.")
	case key != nil:
		return promise.ByIdempotencyKey(*key)
	}
	var u uuid.UUID
	if u, err = promise.ParseID(*id); err != nil {
		return promise.Identifier{}, err
	}
	return promise.ByID(u), nil
}

// text decodes a JSON string that Postgres can store as TEXT.
func text(name string, raw json.RawMessage) (string, error) {
	if raw[0] != '"' {
		return "", fieldError(name, promise.CodeWrongType, name+" must be a string.")
	}
	if err := checkEscapes(name, raw); err != nil {
		return "", err
	}
	return unquote(raw), nil
}

// checkEscapes refuses the two escapes in a JSON text that Postgres' TEXT and JSONB
// cannot store: NUL, and half of a surrogate pair, which encoding/json would replace
// by U+FFFD.
func checkEscapes(name string, raw []byte) error {
	for i := 0; i < len(raw); i++ {
		if raw[i] != '\\' {
			continue
		}
		i++
		if raw[i] != 'u' {
			continue
		}
		unit := hex4(raw[i+1:])
		i += 4
		switch {
		case unit == 0:
			return fieldError(name, promise.CodeNULCharacter, name+" must not contain a NUL character.")
		case unit >= 0xD800 && unit < 0xDC00 && i+6 < len(raw) && raw[i+1] == '\\' && raw[i+2] == 'u' &&
			hex4(raw[i+3:])&0xFC00 == 0xDC00:
			i += 6
		case unit >= 0xD800 && unit < 0xE000:
			return fieldError(name, promise.CodeInvalidUTF8, name+" must not contain half of a surrogate pair.")
		}
	}
	return nil
}

// hex4 reads the four hexadecimal digits of an escape. In valid JSON, they are always
// present.
func hex4(s []byte) uint64 {
	n, _ := strconv.ParseUint(string(s[:4]), 16, 64)
	return n
}
