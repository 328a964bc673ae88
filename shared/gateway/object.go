package gateway

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"strconv"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/flovyn/promises/shared/promise"
)

// object is a JSON object as it was sent: field names are exact, values are
// untouched text. encoding/json alone would match names of any case, keep the
// last of two equal ones, ignore unknown ones, and replace what is not Unicode.
type object []field

type field struct {
	name string
	raw  json.RawMessage
}

func parseObject(text []byte) (object, error) {
	if !utf8.Valid(text) {
		return nil, promise.Fail(promise.CodeInvalidUTF8, "The JSON must be valid UTF-8.")
	}
	malformed := func() error { return promise.Fail(promise.CodeMalformedJSON, "The body must be JSON.") }
	dec := json.NewDecoder(bytes.NewReader(text))
	switch token, err := dec.Token(); {
	case err != nil:
		return nil, malformed()
	case token != json.Delim('{') && !json.Valid(text):
		return nil, malformed()
	case token != json.Delim('{'):
		return nil, promise.Fail(promise.CodeWrongType, "The JSON must be an object.")
	}
	var o object
	for dec.More() {
		token, err := dec.Token()
		if err != nil {
			return nil, malformed()
		}
		f := field{name: token.(string)} // an object's tokens alternate; what stands before a value is a string
		if _, twice := o.get(f.name); twice {
			return nil, fail(promise.CodeDuplicateField, f.name, "The field is there twice.")
		}
		if err := dec.Decode(&f.raw); err != nil {
			return nil, malformed()
		}
		o = append(o, f)
	}
	if _, err := dec.Token(); err != nil {
		return nil, malformed()
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, promise.Fail(promise.CodeTrailingData, "The JSON must end where its object ends.")
	}
	return o, nil
}

func (o object) get(name string) (json.RawMessage, bool) {
	i := slices.IndexFunc(o, func(f field) bool { return f.name == name })
	if i < 0 {
		return nil, false
	}
	return o[i].raw, true
}

func (o object) only(known []string) error {
	for _, f := range o {
		if !slices.Contains(known, f.name) {
			return fail(promise.CodeUnknownField, f.name, "There is no such field.")
		}
	}
	return nil
}

func (o object) required(name string) (json.RawMessage, error) {
	raw, ok := o.get(name)
	if !ok {
		return nil, fail(promise.CodeMissingField, name, "The field must be there.")
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

// optionalText is nil where the field is absent. An explicit null is refused:
// it is more likely a lost value than a wish.
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
	n, err := strconv.ParseInt(string(raw), 10, 64)
	if errors.Is(err, strconv.ErrSyntax) {
		return nil, fail(promise.CodeWrongType, name, "The field must be a whole number.")
	}
	if err != nil || n < low || n > high {
		return nil, fail(promise.CodeOutOfRange, name,
			"The field must be from "+strconv.FormatInt(low, 10)+" to "+strconv.FormatInt(high, 10)+".")
	}
	return &n, nil
}

func (o object) flag(name string) (bool, error) {
	raw, ok := o.get(name)
	if !ok || string(raw) == "false" {
		return false, nil
	}
	if string(raw) != "true" {
		return false, fail(promise.CodeWrongType, name, "The field must be true or false.")
	}
	return true, nil
}

// identifier reads the direct form's "promiseId" or "key".
func (o object) identifier() (promise.Identifier, error) {
	id, err := o.optionalText("promiseId")
	if err != nil {
		return promise.Identifier{}, err
	}
	key, err := o.optionalText("key")
	switch {
	case err != nil:
		return promise.Identifier{}, err
	case (id == nil) == (key == nil):
		return promise.Identifier{}, promise.Fail(promise.CodeInvalidIdentifier, "Give promiseId or key, and not both.")
	case key != nil:
		return promise.ByKey(*key)
	}
	var u uuid.UUID
	if u, err = promise.ParseID(*id); err != nil {
		return promise.Identifier{}, err
	}
	return promise.ByID(u), nil
}

// text decodes a JSON string for a TEXT column.
func text(name string, raw json.RawMessage) (string, error) {
	if raw[0] != '"' {
		return "", fail(promise.CodeWrongType, name, "The field must be a string.")
	}
	if err := checkEscapes(name, raw); err != nil {
		return "", err
	}
	var s string
	if err := json.Unmarshal(raw, &s); err != nil {
		return "", fail(promise.CodeMalformedJSON, name, "The field must be a JSON string.")
	}
	return s, nil
}

// checkEscapes refuses the two escapes in a JSON text that Postgres' TEXT and
// JSONB cannot hold: NUL, and half of a surrogate pair, in whose place
// encoding/json would put U+FFFD.
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
			return fail(promise.CodeNULCharacter, name, "The field must not hold a NUL character.")
		case unit >= 0xD800 && unit < 0xDC00 && i+6 < len(raw) && raw[i+1] == '\\' && raw[i+2] == 'u' &&
			hex4(raw[i+3:])&0xFC00 == 0xDC00:
			i += 6
		case unit >= 0xD800 && unit < 0xE000:
			return fail(promise.CodeInvalidUTF8, name, "The field must not hold half of a surrogate pair.")
		}
	}
	return nil
}

// hex4 reads the four digits of an escape; the JSON parser has seen that they
// are there.
func hex4(s []byte) uint64 {
	n, _ := strconv.ParseUint(string(s[:4]), 16, 64)
	return n
}
