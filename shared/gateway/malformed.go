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

// maxDepth is how deep encoding/json reads: a text that is nested deeper is not
// read at all.
const maxDepth = 10_000

var byteOrderMark = []byte("\ufeff")

// checkUTF8 fails with CodeInvalidUTF8 unless a JSON text is UTF-8. It recognizes
// UTF-16 and UTF-32, which begin with a byte order mark or, like every JSON text,
// with an ASCII character. skipped is how many bytes of what was sent stand before
// the text. Positions count from 0.
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
	return promise.Fail(promise.CodeInvalidUTF8, "The JSON must be valid UTF-8. It is not at byte "+strconv.Itoa(skipped+i)+".")
}

// explain returns the error of a text that json.Valid refuses: CodeValueTooLarge
// where it is nested deeper than maxDepth, CodeTrailingData where something
// follows a whole value, CodeMalformedJSON otherwise. skipped is as in checkUTF8.
//
// The error names a position and the kind of character that stands there, and
// never the character: it may be part of a secret.
func syntaxError(text []byte, skipped int) error {
	var syntax *json.SyntaxError
	if err := json.Unmarshal(text, new(json.RawMessage)); !errors.As(err, &syntax) {
		return promise.Fail(promise.CodeMalformedJSON, "The text must be JSON.")
	}
	if skipSpace(text, 0) == len(text) {
		return promise.Fail(promise.CodeMalformedJSON, "There is no JSON: send an object.")
	}
	read := text[:min(int(syntax.Offset), len(text))]
	if depth(read) > maxDepth {
		return tooDeep(deepField(read))
	}
	at := max(len(read)-1, 0)
	found := kindOf(text[at:]) + " at byte " + strconv.Itoa(skipped+at) + " cannot stand there."
	switch err := json.NewDecoder(bytes.NewReader(text)).Decode(new(json.RawMessage)); {
	case err == nil:
		return promise.Fail(promise.CodeTrailingData, "The JSON must end where its value ends: "+found)
	case errors.Is(err, io.ErrUnexpectedEOF):
		found = "it ends too early, at byte " + strconv.Itoa(skipped+len(text)) + "."
	}
	return promise.Fail(promise.CodeMalformedJSON, "The text must be JSON: "+found)
}

func kindOf(text []byte) string {
	switch c := text[0]; {
	case c >= '0' && c <= '9':
		return "the digit"
	case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z':
		return "the letter"
	case c == '"':
		return "the quotation mark"
	case c == '\'':
		return "the single quotation mark"
	case bytes.IndexByte([]byte("{}[]:,"), c) >= 0:
		return "the " + string(rune(c))
	case bytes.HasPrefix(text, byteOrderMark):
		return "the byte order mark"
	case c < ' ':
		return "the control character"
	case c >= utf8.RuneSelf:
		return "the character outside ASCII"
	default:
		return "the character"
	}
}

// deepField returns the field in which a text that begins an object ends.
func deepField(text []byte) string {
	name := ""
	for f := range fields(text) {
		name = string(f.name)
	}
	return name
}

// tooDeep is the one error for a value that is nested too deep, in every field
// and in both forms of call.
func tooDeep(field string) error {
	limit := maxValueDepth
	if field == "metadata" {
		limit = maxMetadataDepth
	}
	return fieldError(field, promise.CodeValueTooLarge, "The field may be nested at most "+strconv.Itoa(limit)+" deep.")
}
