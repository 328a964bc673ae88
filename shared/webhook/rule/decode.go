package rule

import (
	"bytes"
	"encoding/json"
	"errors"
	"math"
	"strconv"

	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"
)

// The errors of a body that rules cannot see.
var (
	errNotJSON = errors.New("the body is not JSON")
	errLarge   = errors.New("the body has more than " + strconv.Itoa(MaxBodyValues) + " JSON values")
	errDeep    = errors.New("the body is nested deeper than " + strconv.Itoa(MaxBodyDepth))
)

// A span is the place of a JSON value in the body.
type span struct{ from, to int64 }

// A decoder makes CEL values from a JSON text.
type decoder struct {
	json   *json.Decoder
	values int

	// lists has the places of the lists, so that an item's text can be found again. It is
	// nil if there are no items.
	lists map[traits.Lister]span
}

// decode reads a JSON text. withLists asks for the places of its lists.
func decode(text []byte, withLists bool) (ref.Val, map[traits.Lister]span, error) {
	d := decoder{json: json.NewDecoder(bytes.NewReader(text))}
	d.json.UseNumber()
	if withLists {
		d.lists = map[traits.Lister]span{}
	}
	if !json.Valid(text) { // the decoder stops after the first value
		return nil, nil, errNotJSON
	}
	v, err := d.value(0)
	return v, d.lists, err
}

func (d *decoder) value(depth int) (ref.Val, error) {
	token, err := d.json.Token()
	if err != nil {
		return nil, errNotJSON
	}
	if d.values++; d.values > MaxBodyValues {
		return nil, errLarge
	}
	switch t := token.(type) {
	case json.Delim:
		if depth == MaxBodyDepth {
			return nil, errDeep
		}
		if t == '{' {
			return d.object(depth + 1)
		}
		return d.list(depth + 1)
	case json.Number:
		return number(string(t)), nil
	case string:
		return types.String(t), nil
	case bool:
		return types.Bool(t), nil
	default:
		return types.NullValue, nil
	}
}

func (d *decoder) object(depth int) (ref.Val, error) {
	fields := map[string]any{}
	for d.json.More() {
		name, err := d.json.Token()
		if err != nil {
			return nil, errNotJSON
		}
		if fields[name.(string)], err = d.value(depth); err != nil {
			return nil, err
		}
	}
	_, err := d.json.Token()
	return types.NewStringInterfaceMap(types.DefaultTypeAdapter, fields), err
}

func (d *decoder) list(depth int) (ref.Val, error) {
	from := d.json.InputOffset() - 1
	var elements []ref.Val
	for d.json.More() {
		v, err := d.value(depth)
		if err != nil {
			return nil, err
		}
		elements = append(elements, v)
	}
	_, err := d.json.Token()
	list := types.NewRefValList(types.DefaultTypeAdapter, elements)
	if d.lists != nil {
		d.lists[list] = span{from, d.json.InputOffset()}
	}
	return list, err
}

// number returns the value of a JSON number: see the package's comment.
func number(text string) ref.Val {
	integer := true
	for _, c := range []byte(text) {
		integer = integer && (c == '-' || c >= '0' && c <= '9')
	}
	if !integer {
		f, err := strconv.ParseFloat(text, 64)
		if err != nil || math.IsInf(f, 0) {
			return types.String(text)
		}
		return types.Double(f)
	}
	if i, err := strconv.ParseInt(text, 10, 64); err == nil {
		return types.Int(i)
	}
	if u, err := strconv.ParseUint(text, 10, 64); err == nil {
		return types.Uint(u)
	}
	return types.String(text)
}
