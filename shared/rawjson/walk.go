package rawjson

import (
	"bytes"
	"encoding/json"
	"iter"
)

// A Field is a field of a JSON object, with the untouched text of its value. It may
// share the memory of the object's text.
type Field struct {
	Name []byte // without quotes and escapes
	Raw  json.RawMessage
}

// Fields yields the fields of a JSON object, in their order. It checks nothing: it may
// yield anything for a text that is not JSON, and yields nothing for another JSON
// value.
func Fields(text []byte) iter.Seq[Field] {
	return func(yield func(Field) bool) {
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
			f := Field{Name: quoted[1 : len(quoted)-1], Raw: text[i:valueEnd(text, i)]}
			if bytes.IndexByte(quoted, '\\') >= 0 {
				f.Name = []byte(Unquote(quoted))
			}
			if !yield(f) {
				return
			}
			if i = skipSpace(text, i+len(f.Raw)); byteAt(text, i) != ',' {
				return
			}
		}
	}
}

// Elements yields the items of a valid JSON array.
func Elements(text []byte) iter.Seq[json.RawMessage] {
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

// Unquote decodes a valid JSON string. It returns "" for any other JSON value.
func Unquote(raw []byte) string {
	switch {
	case len(raw) < 2 || raw[0] != '"':
		return ""
	case bytes.IndexByte(raw, '\\') < 0:
		return string(raw[1 : len(raw)-1])
	}
	var s string
	_ = json.Unmarshal(raw, &s)
	return s
}

// Depth returns how deeply the objects and arrays of a valid JSON value are nested.
func Depth(text []byte) (most int) {
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
