package gateway

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strconv"
	"unicode/utf8"

	"github.com/flovyn/promises/shared/promise"
)

// maxDepth is the deepest nesting that encoding/json reads. It refuses a deeper text
// as a whole.
const maxDepth = 10_000

var byteOrderMark = []byte("\ufeff")

// checkUTF8 fails with CodeInvalidUTF8 unless a JSON text is UTF-8. It recognizes
// UTF-16 and UTF-32, which begin with a byte order mark or, like every JSON text,
// with an ASCII character. skipped is the number of received bytes before the text.
// Positions count from 0.
func checkUTF8(text []byte, skipped int) error {
	if bytes.HasPrefix(text, []byte{0xff, 0xfe}) || bytes.HasPrefix(text, []byte{0xfe, 0xff}) ||
		bytes.IndexByte(text[:min(2, len(text))], 0) >= 0 {
		return promise.Fail(promise.CodeInvalidUTF8, "The JSON must be UTF-8. It looks like UTF-16 or UTF-32.")
	}
	if utf8.Valid(text) {
		return nil
	}
	i := 0
	for i < len(text) {
		r, size := utf8.DecodeRune(text[i:])
		if r == utf8.RuneError && size == 1 {
			break
		}
		i += size
	}
	return promise.Fail(promise.CodeInvalidUTF8, "The JSON must be valid UTF-8. It is invalid at byte "+strconv.Itoa(skipped+i)+".")
}

// syntaxError returns the error for a text that json.Valid refuses:
// CodeValueTooLarge if it is nested deeper than maxDepth, CodeTrailingData if
// something follows a whole value, CodeMalformedJSON otherwise. skipped is as in
// checkUTF8.
//
// The error names a position and the kind of the character there, as kindOf returns
// it. It quotes no letter, digit or other text, which may be part of a secret.
func syntaxError(text []byte, skipped int) error {
	var syntax *json.SyntaxError
	if err := json.Unmarshal(text, new(json.RawMessage)); !errors.As(err, &syntax) {
		return promise.Fail(promise.CodeMalformedJSON, "The text must be JSON.")
	}
	if skipSpace(text, 0) == len(text) {
		return promise.Fail(promise.CodeMalformedJSON, "The JSON is missing. Send an object.")
	}
	read := text[:min(int(syntax.Offset), len(text))]
	if depth(read) > maxDepth {
		return tooDeep(deepField(read))
	}
	at := max(len(read)-1, 0)
	found := "unexpected " + kindOf(text[at:]) + " at byte " + strconv.Itoa(skipped+at) + "."
	switch err := json.NewDecoder(bytes.NewReader(text)).Decode(new(json.RawMessage)); {
	case err == nil:
		return promise.Fail(promise.CodeTrailingData, "The JSON must end where its value ends: "+found)
	case errors.Is(err, io.ErrUnexpectedEOF):
		found = "it ends too early, at byte " + strconv.Itoa(skipped+len(text)) + "."
	}
	return promise.Fail(promise.CodeMalformedJSON, "The text must be JSON: "+found)
}

// kindOf returns the kind of a text's first character. A bracket, a brace, a colon and a
// comma stand for themselves.
func kindOf(text []byte) string {
	switch c := text[0]; {
	case c >= '0' && c <= '9':
		return "digit"
	case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z':
		return "letter"
	case c == '"':
		return "quotation mark"
	case c == '\'':
		return "single quotation mark"
	case bytes.IndexByte([]byte("{}[]:,"), c) >= 0:
		return string(rune(c))
	case bytes.HasPrefix(text, byteOrderMark):
		return "byte order mark"
	case c < ' ':
		return "control character"
	case c >= utf8.RuneSelf:
		return "character outside ASCII"
	default:
		return "character"
	}
}

// deepField returns the name of the last field in a text that is the beginning of a
// JSON object.
func deepField(text []byte) string {
	name := ""
	for f := range fields(text) {
		name = string(f.name)
	}
	return name
}

// tooDeep returns the error for a value that is nested too deeply. It is the same for
// every field and for both forms of call.
func tooDeep(field string) error {
	limit := maxValueDepth
	if field == "metadata" {
		limit = maxMetadataDepth
	}
	return fieldError(field, promise.CodeValueTooLarge, "The field may be nested at most "+strconv.Itoa(limit)+" levels deep.")
}
