package rule

import (
	"bytes"
	"encoding/json"
	"errors"
	"math"
	"slices"
	"strconv"
	"time"

	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"
)

// The errors of a value that has no JSON text.
var (
	errNoJSON    = errors.New("the result has a type that JSON does not have")
	errOptional  = errors.New("the result is an optional value: use orValue(...)")
	errNotFinite = errors.New("the result is a number that JSON does not have")
	errNames     = errors.New("the result is a map whose keys are not strings")
	errTooLong   = errors.New("the result has more than " + strconv.Itoa(MaxValueBytes) + " bytes of JSON")
)

// An encoder writes CEL values as JSON. Its limit also bounds its time, because every
// value writes at least a byte.
type encoder struct{ out bytes.Buffer }

// encode returns a value as JSON: an integer with all its digits, a double as the
// shortest text that means it, bytes in base64, a timestamp as RFC 3339 in UTC, and a map
// with sorted names. With an error it returns what it had written before.
func encode(v ref.Val) ([]byte, error) {
	var e encoder
	err := e.value(v)
	return e.out.Bytes(), err
}

func (e *encoder) value(v ref.Val) error {
	switch t := v.(type) {
	case types.Null:
		return e.write("null")
	case types.Bool:
		return e.write(strconv.FormatBool(bool(t)))
	case types.Int:
		return e.write(strconv.FormatInt(int64(t), 10))
	case types.Uint:
		return e.write(strconv.FormatUint(uint64(t), 10))
	case types.Double:
		if f := float64(t); math.IsNaN(f) || math.IsInf(f, 0) {
			return errNotFinite
		}
		return e.plain(float64(t))
	case types.String:
		return e.text(string(t))
	case types.Bytes:
		if len(t) > MaxValueBytes {
			return errTooLong
		}
		return e.plain([]byte(t))
	case types.Timestamp:
		return e.plain(t.UTC().Format(time.RFC3339Nano))
	case *types.Optional:
		return errOptional
	case traits.Mapper:
		return e.object(t)
	case traits.Lister:
		return e.list(t)
	default:
		return errNoJSON
	}
}

// write appends a text, unless the value is then too long.
func (e *encoder) write(text string) error {
	if e.out.Len()+len(text) > MaxValueBytes {
		return errTooLong
	}
	e.out.WriteString(text)
	return nil
}

// text appends a string. It escapes no more than JSON needs.
func (e *encoder) text(s string) error {
	if e.out.Len()+len(s) > MaxValueBytes {
		return errTooLong
	}
	return e.plain(s)
}

// plain appends a value as encoding/json writes it.
func (e *encoder) plain(v any) error {
	j := json.NewEncoder(&e.out)
	j.SetEscapeHTML(false)
	if err := j.Encode(v); err != nil {
		return errNoJSON
	}
	e.out.Truncate(e.out.Len() - 1) // the line's end
	return e.write("")
}

func (e *encoder) list(l traits.Lister) error {
	err := e.write("[")
	for it, n := l.Iterator(), 0; err == nil && it.HasNext() == types.True; n++ {
		if n > 0 {
			err = e.write(",")
		}
		if err == nil {
			err = e.value(it.Next())
		}
	}
	if err != nil {
		return err
	}
	return e.write("]")
}

func (e *encoder) object(m traits.Mapper) error {
	var names []string
	for it := m.Iterator(); it.HasNext() == types.True; {
		name, ok := it.Next().(types.String)
		if !ok {
			return errNames
		}
		names = append(names, string(name))
	}
	slices.Sort(names)
	err := e.write("{")
	for n, name := range names {
		if n > 0 {
			err = e.write(",")
		}
		if err == nil {
			err = e.text(name)
		}
		if err == nil {
			err = e.write(":")
		}
		if err == nil {
			err = e.value(m.Get(types.String(name)))
		}
		if err != nil {
			return err
		}
	}
	if err != nil {
		return err
	}
	return e.write("}")
}
