// Package rawjson reads a JSON object strictly and keeps its values byte for byte.
// Names are exact, and no name may appear twice. encoding/json alone would match
// names in any case, keep the last of two equal names, ignore unknown names, and
// replace invalid Unicode.
//
// When encoding/json/jsontext is stable, it can replace this package.
package rawjson

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"slices"
)

// maxDepth is the deepest nesting that encoding/json reads. It refuses a deeper text
// as a whole.
const maxDepth = 10_000

// A Kind is a reason why a text is refused.
type Kind string

// The kinds.
const (
	Malformed      Kind = "malformed JSON"
	TrailingData   Kind = "data after the JSON value"
	TooDeep        Kind = "JSON that is nested too deeply"
	NotObject      Kind = "JSON that is not an object"
	UnknownField   Kind = "unknown field"
	DuplicateField Kind = "duplicate field"
)

// An Error reports why a text is refused.
type Error struct {
	Kind  Kind
	Field string // the field that is nested too deeply, unknown or repeated

	// At is the position of the unexpected byte of Malformed and TrailingData. It is the
	// text's length if the text ends too early.
	At int
}

// Error returns the kind alone, because the text may contain a secret.
func (e *Error) Error() string { return string(e.Kind) }

// Parse reads a JSON text that must be one object, with none but the known fields.
// It does not check whether the text is UTF-8. Its error is an *Error.
func Parse(text []byte, known []string) ([]Field, error) {
	if err := checkObject(text); err != nil {
		return nil, err
	}
	fields := make([]Field, 0, 8)
	for f := range Fields(text) {
		if !slices.Contains(known, string(f.Name)) {
			return nil, &Error{Kind: UnknownField, Field: string(f.Name)}
		}
		if slices.ContainsFunc(fields, func(earlier Field) bool { return bytes.Equal(earlier.Name, f.Name) }) {
			return nil, &Error{Kind: DuplicateField, Field: string(f.Name)}
		}
		fields = append(fields, f)
	}
	return fields, nil
}

// ParseAny is like Parse, but accepts fields of any name.
func ParseAny(text []byte) (map[string]json.RawMessage, error) {
	if err := checkObject(text); err != nil {
		return nil, err
	}
	fields := map[string]json.RawMessage{}
	for f := range Fields(text) {
		name := string(f.Name)
		if _, twice := fields[name]; twice {
			return nil, &Error{Kind: DuplicateField, Field: name}
		}
		fields[name] = f.Raw
	}
	return fields, nil
}

// checkObject returns an *Error unless a text is one valid JSON object.
func checkObject(text []byte) error {
	switch {
	case !json.Valid(text):
		return syntaxError(text)
	case text[skipSpace(text, 0)] != '{':
		return &Error{Kind: NotObject}
	}
	return nil
}

// syntaxError returns the error for a text that json.Valid refuses. A text that is
// nested too deeply is TooDeep, even if it also ends too early.
func syntaxError(text []byte) *Error {
	syntax := new(json.SyntaxError)
	errors.As(json.Unmarshal(text, new(json.RawMessage)), &syntax)
	read := text[:min(int(syntax.Offset), len(text))]
	if Depth(read) > maxDepth {
		e := &Error{Kind: TooDeep}
		for f := range Fields(read) { // the last one is too deep
			e.Field = string(f.Name)
		}
		return e
	}
	at := max(len(read)-1, 0)
	switch err := json.NewDecoder(bytes.NewReader(text)).Decode(new(json.RawMessage)); {
	case err == nil:
		return &Error{Kind: TrailingData, At: at}
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		at = len(text)
	}
	return &Error{Kind: Malformed, At: at}
}
