package gateway

import (
	"bytes"
	"encoding/json"
	"slices"
	"strconv"

	"github.com/flovyn/promises/shared/promise"
	"github.com/flovyn/promises/shared/rawjson"
)

// An object is a JSON object as it was sent: with exact field names, and with the
// untouched text of the values.
type object []rawjson.Field

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
	fields, err := rawjson.Parse(text, known)
	if err != nil {
		return nil, refusal(err, text, skipped, known)
	}
	return fields, nil
}

func (o object) get(name string) (json.RawMessage, bool) {
	i := slices.IndexFunc(o, func(f rawjson.Field) bool { return string(f.Name) == name })
	if i < 0 {
		return nil, false
	}
	return o[i].Raw, true
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

// flag returns false if the field is absent.
func (o object) flag(name string) (bool, error) {
	is, err := o.optionalFlag(name)
	return is != nil && *is, err
}

// optionalFlag returns nil if the field is absent.
func (o object) optionalFlag(name string) (*bool, error) {
	raw, ok := o.get(name)
	if !ok {
		return nil, nil
	}
	is := string(raw) == "true"
	if !is && string(raw) != "false" {
		return nil, fieldError(name, promise.CodeWrongType, name+" must be true or false.")
	}
	return &is, nil
}

// text decodes a JSON string that Postgres can store as TEXT.
func text(name string, raw json.RawMessage) (string, error) {
	if raw[0] != '"' {
		return "", fieldError(name, promise.CodeWrongType, name+" must be a string.")
	}
	if err := checkEscapes(name, raw); err != nil {
		return "", err
	}
	return rawjson.Unquote(raw), nil
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
