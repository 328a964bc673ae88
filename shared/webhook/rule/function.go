package rule

import (
	"errors"
	"strconv"
	"strings"
	"unicode/utf8"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/overloads"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"
)

const (
	maxText  = 1 << 20   // bytes of a text that replace or join makes
	maxParts = 10_000    // texts that split makes
	maxSize  = 1_000_000 // elements of a value, each 10 bytes of a text included: see sizes
)

// sizes measures values with all that they contain. A value that contains another one
// many times has the size of its JSON text, because each function that walks it takes as
// long.
var sizes = types.NewSizeCalculator(types.SizeCalculatorMaxDepth(1_000), types.SizeCalculatorMaxTraversal(1_000_000))

// A functionError is the error of a function of this package. Its text contains no value.
type functionError string

func (e functionError) Error() string { return string(e) }

func fail(text string) ref.Val { return types.WrapErr(functionError(text)) }

// A meter charges each call for the texts and lists that it walks, whatever types cel
// knows. cel's own model takes a variable of type dyn to cost nothing. A meter has the
// number of instructions of each pattern in the expression.
type meter map[string]int

// CallCost implements cel's ActualCostEstimator.
func (m meter) CallCost(function, _ string, args []ref.Val, result ref.Val) *uint64 {
	charge := uint64(1)
	switch {
	case function == operators.Equals || function == operators.NotEquals:
		charge += min(size(args[0]), size(args[1]))
	case function == operators.In:
		if _, list := args[1].(traits.Lister); list {
			charge += size(args[1])
		}
	case function == operators.Add:
		charge += textCost(result)
		if _, list := result.(traits.Lister); list {
			charge += size(result) / 10 // cel measures the list that a macro extends
		}
	case function == overloads.StartsWith || function == overloads.EndsWith:
		charge += textCost(args[1])
	case function == overloads.Matches:
		charge += m.matchCost(args[0], args[1])
	case strings.HasPrefix(function, "get") && len(args) == 2:
		charge += 100 + textCost(args[1]) // reads a time zone
	case function == omitName:
		charge += textCost(args[1]) + 3*walked(args[0], fields(str(args[1]))) // a copy takes three steps' time
	default:
		charge += textCost(result)
		for _, arg := range args {
			charge += textCost(arg)
		}
		switch function {
		case "join":
			charge += size(args[0])
		case "split":
			charge += size(result)
		}
	}
	return &charge
}

// textCost returns the cost of reading a text once.
func textCost(v ref.Val) uint64 {
	switch t := v.(type) {
	case types.String:
		return uint64(len(t)) / 10
	case types.Bytes:
		return uint64(len(t)) / 10
	default:
		return 0
	}
}

func size(v ref.Val) uint64 { return uint64(sizes.AggregateSize(v)) }

// functions declares the methods of this package. Those of strings do what the functions
// of the same names in cel's package ext do, except that each call has a bound of time and
// memory.
func functions() cel.EnvOption {
	text, number, texts := cel.StringType, cel.IntType, cel.ListType(cel.StringType)
	method := func(name, id string, result *cel.Type, f func(args ...ref.Val) ref.Val, args ...*cel.Type) cel.EnvOption {
		return cel.Function(name, cel.MemberOverload(id, args, result, cel.FunctionBinding(f)))
	}
	options := []cel.EnvOption{
		method("lowerAscii", "string_lower_ascii", text, mapASCII('A', 'Z'), text),
		method("upperAscii", "string_upper_ascii", text, mapASCII('a', 'z'), text),
		method("trim", "string_trim", text, func(args ...ref.Val) ref.Val { return types.String(strings.TrimSpace(str(args[0]))) }, text),
		method("split", "string_split_string", texts, split, text, text),
		method("replace", "string_replace_string_string", text, replace, text, text, text),
		method("substring", "string_substring_int", text, substring, text, number),
		method("substring", "string_substring_int_int", text, substring, text, number, number),
		method("indexOf", "string_index_of_string", number, find(strings.Index), text, text),
		method("lastIndexOf", "string_last_index_of_string", number, find(strings.LastIndex), text, text),
		method("join", "list_join", text, join, texts),
		method("join", "list_join_string", text, join, texts, text),
		method(omitName, "map_omit_string", cel.DynType, omit, cel.MapType(cel.DynType, cel.DynType), text),
		method(omitName, "list_omit_string", cel.DynType, omit, cel.ListType(cel.DynType), text),
	}
	return func(e *cel.Env) (*cel.Env, error) {
		var errs []error
		for _, option := range options {
			var err error
			e, err = option(e)
			errs = append(errs, err)
		}
		return e, errors.Join(errs...)
	}
}

// str returns a string's text. cel calls a function only with the types that it declares.
func str(v ref.Val) string { return string(v.(types.String)) }

// mapASCII returns a function that exchanges the case of the letters from first to last.
func mapASCII(first, last rune) func(args ...ref.Val) ref.Val {
	return func(args ...ref.Val) ref.Val {
		return types.String(strings.Map(func(r rune) rune {
			if r >= first && r <= last {
				return r ^ ' '
			}
			return r
		}, str(args[0])))
	}
}

func split(args ...ref.Val) ref.Val {
	parts := strings.SplitN(str(args[0]), str(args[1]), maxParts+1)
	if len(parts) > maxParts {
		return fail("split makes more than " + strconv.Itoa(maxParts) + " texts")
	}
	return types.NewStringList(types.DefaultTypeAdapter, parts)
}

func replace(args ...ref.Val) ref.Val {
	text, from, to := str(args[0]), str(args[1]), str(args[2])
	if n := strings.Count(text, from); len(text)+n*(len(to)-len(from)) > max(maxText, len(text)) {
		return fail("replace makes more than " + strconv.Itoa(maxText) + " bytes")
	}
	return types.String(strings.ReplaceAll(text, from, to))
}

// substring implements both overloads. Without an end it takes the rest of the text.
func substring(args ...ref.Val) ref.Val {
	text := str(args[0])
	from, ok := offset(text, args[1].(types.Int))
	to := len(text)
	if ok && len(args) == 3 {
		to, ok = offset(text, args[2].(types.Int))
	}
	if !ok || from > to {
		return fail("the range of substring is outside of the text")
	}
	return types.String(text[from:to])
}

// offset returns the number of bytes before a character of a text.
func offset(text string, character types.Int) (int, bool) {
	if character < 0 || int64(character) > int64(len(text)) {
		return 0, false
	}
	at := 0
	for range int(character) {
		if at >= len(text) {
			return 0, false
		}
		_, n := utf8.DecodeRuneInString(text[at:])
		at += n
	}
	return at, true
}

// find returns a function that returns the position of a text in another one, or -1.
func find(index func(s, substr string) int) func(args ...ref.Val) ref.Val {
	return func(args ...ref.Val) ref.Val {
		text := str(args[0])
		at := index(text, str(args[1]))
		if at < 0 {
			return types.Int(-1)
		}
		return types.Int(utf8.RuneCountInString(text[:at]))
	}
}

// join implements both overloads. Without a separator there is none.
func join(args ...ref.Val) ref.Val {
	separator := ""
	if len(args) == 2 {
		separator = str(args[1])
	}
	var b strings.Builder
	for it, first := args[0].(traits.Lister).Iterator(), true; it.HasNext() == types.True; first = false {
		part, ok := it.Next().(types.String)
		switch {
		case !ok:
			return fail("join takes a list of strings")
		case b.Len()+len(separator)+len(part) > maxText:
			return fail("join makes more than " + strconv.Itoa(maxText) + " bytes")
		case !first:
			b.WriteString(separator)
		}
		b.WriteString(string(part))
	}
	return types.String(b.String())
}
