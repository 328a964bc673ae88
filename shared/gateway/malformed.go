package gateway

import (
	"bytes"
	"errors"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/flovyn/promises/shared/promise"
	"github.com/flovyn/promises/shared/rawjson"
)

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

// refusal words an error of rawjson.Parse for the same text and known fields. skipped
// is as in checkUTF8.
//
// A syntax error names a position and the kind of the character there, as kindOf
// returns it. It quotes no letter, digit or other text, which may be part of a secret.
func refusal(err error, text []byte, skipped int, known []string) error {
	var e *rawjson.Error
	if !errors.As(err, &e) {
		return err
	}
	switch e.Kind {
	case rawjson.UnknownField:
		detail := "There is no such field. This object takes none."
		if len(known) > 0 {
			detail = "There is no such field. The fields are: " + strings.Join(known, ", ") + "."
		}
		return fieldError(e.Field, promise.CodeUnknownField, detail)
	case rawjson.DuplicateField:
		return fieldError(e.Field, promise.CodeDuplicateField, "The field appears twice. Send it once.")
	case rawjson.NotObject:
		return promise.Fail(promise.CodeWrongType, "The JSON must be an object.")
	case rawjson.TooDeep:
		return tooDeep(e.Field)
	}
	at := " at byte " + strconv.Itoa(skipped+e.At) + "."
	switch {
	case len(bytes.TrimLeft(text, " \n\t\r")) == 0:
		return promise.Fail(promise.CodeMalformedJSON, "The JSON is missing. Send an object.")
	case e.Kind == rawjson.TrailingData:
		return promise.Fail(promise.CodeTrailingData, "The JSON must end where its value ends: unexpected "+kindOf(text[e.At:])+at)
	case e.At == len(text):
		return promise.Fail(promise.CodeMalformedJSON, "The text must be JSON: it ends too early,"+at)
	}
	return promise.Fail(promise.CodeMalformedJSON, "The text must be JSON: unexpected "+kindOf(text[e.At:])+at)
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

const (
	// maxValueDepth bounds the nesting of a value. An answer adds up to four levels
	// around it, and readers such as encoding/json refuse a text of more than 10,000
	// levels: one deeper value would make a whole page unreadable.
	maxValueDepth = 9_990

	maxMetadataDepth = 100 // Postgres' stack holds more
)

// tooDeep returns the error for a value that is nested too deeply. It is the same for
// every field and for both forms of call.
func tooDeep(field string) error {
	limit := maxValueDepth
	if field == "metadata" {
		limit = maxMetadataDepth
	}
	return fieldError(field, promise.CodeValueTooLarge, "The field may be nested at most "+strconv.Itoa(limit)+" levels deep.")
}
