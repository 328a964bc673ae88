package rule

import (
	"errors"
	"strconv"
	"strings"
	"unicode/utf8"

	"cel.dev/cel-go/interpreter"

	"github.com/flovyn/promises/shared/promise"
)

// errBudget is the error of a request whose rules have cost too much.
var errBudget = errors.New("the rules cost too much for one request")

// knownErrors maps the beginnings of cel's errors to texts for a receipt. The rest of an
// error may quote a value of the request, so no receipt has it.
var knownErrors = []struct{ prefix, text string }{
	{"no such overload", "a value has another type than the expression needs"},
	{"no such attribute", "no such variable"},
	{"index out of", "the list has no such index"},
	{"index '", "the list has no such index"},
	{"invalid index", "the list has no such index"},
	{"unsupported index", "a list's index must be an int"},
	{"unsupported key type", "a map has no key of this type"},
	{"insert failed", "a map's key is repeated"},
	{"division by zero", "division by zero"},
	{"modulus by zero", "modulus by zero"},
	{"integer overflow", "integer overflow"},
	{"unsigned integer overflow", "unsigned integer overflow"},
	{"duration overflow", "duration overflow"},
	{"timestamp overflow", "timestamp overflow"},
	{"invalid RFC 3339 timestamp", "a text is no RFC 3339 timestamp"},
	{"NaN values cannot be ordered", "NaN has no order"},
	{"optional.none() dereference", "an optional value is absent"},
	{"invalid UTF-8 in bytes", "bytes are not UTF-8"},
	{"got '", "a value has another type than the operator takes"},
	{"internal error", "the expression cannot be evaluated"},
}

// explain returns an error of an evaluation for a receipt: without a value of the
// request, except a name of a field that the expression itself has.
func (e *expression) explain(err error) string {
	var own functionError
	var number *strconv.NumError
	switch {
	case errors.As(err, &own):
		return own.Error()
	case errors.Is(err, errBudget):
		return errBudget.Error()
	case errors.As(err, &number):
		return "a text is not a number"
	case stopped(err):
		return "the expression costs too much, or its values are too large"
	}
	message := err.Error()
	for _, prefix := range []string{"no such key: ", "no such field '"} {
		if name, ok := strings.CutPrefix(message, prefix); ok {
			name = strings.TrimSuffix(name, "'")
			if name == "" || len(name) > 100 || !strings.Contains(e.text, name) {
				return "no such key"
			}
			return "no such key: " + name
		}
	}
	if rest, ok := strings.CutPrefix(message, "type conversion error from '"); ok {
		from, to, ok := strings.Cut(strings.TrimSuffix(rest, "'"), "' to '")
		if ok && len(from)+len(to) < 60 {
			return "no conversion from " + from + " to " + to
		}
	}
	for _, known := range knownErrors {
		if strings.HasPrefix(message, known.prefix) {
			return known.text
		}
	}
	return "the expression failed"
}

// stopped reports whether a limit ended an evaluation.
func stopped(err error) bool {
	var cancelled interpreter.EvalCancelledError
	return errors.As(err, &cancelled)
}

// reasons joins the parts of a reason. The first one is the most important one.
func reasons(parts ...string) string { return cut(strings.Join(parts, "; "), promise.MaxReason) }

// cut returns a text as UTF-8 without control characters, and at most limit bytes of it.
func cut(text string, limit int) string {
	text = strings.Map(func(r rune) rune {
		if r < ' ' || r == utf8.RuneError || r == 0x7f {
			return ' '
		}
		return r
	}, text[:min(len(text), 4*limit)])
	if len(text) <= limit {
		return text
	}
	end := limit - len("...")
	for !utf8.RuneStart(text[end]) {
		end--
	}
	return text[:end] + "..."
}
