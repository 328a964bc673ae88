package rule

import (
	"regexp"
	"regexp/syntax"
	"strconv"
	"strings"
	"unicode/utf8"

	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/overloads"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/interpreter"
)

// The limits of a pattern. They bound the time of its compilation and of a match.
const (
	maxRegex       = 200     // instructions of a pattern
	maxClasses     = 10      // classes \p and \P of a pattern
	maxMatchedText = 1 << 16 // bytes that a pattern is applied to
)

// folds finds a flag that ignores the case of letters.
var folds = regexp.MustCompile(`\(\?[imsU-]*i`)

// unsupportedPattern returns an error for an argument of matches, or an empty text. Package
// regexp takes milliseconds for each range of Unicode whose case a pattern ignores, and a
// part of one for each class.
func unsupportedPattern(e ast.Expr) string {
	if e.Kind() != ast.LiteralKind {
		return "the pattern of matches must be a literal"
	}
	text, _ := e.AsLiteral().(types.String) // the check refuses another type
	classes := strings.Count(string(text), `\p`) + strings.Count(string(text), `\P`)
	switch {
	case classes > maxClasses:
		return "a pattern may have at most " + strconv.Itoa(maxClasses) + ` classes \p and \P`
	case folds.MatchString(string(text)) && (classes > 0 || !isASCII(string(text)) || strings.Contains(string(text), `\x{`)):
		return `a pattern with the flag i must be ASCII, without \p, \P and \x{`
	}
	return ""
}

// isASCII reports whether a text has ASCII characters only.
func isASCII(text string) bool {
	return strings.IndexFunc(text, func(r rune) bool { return r >= utf8.RuneSelf }) < 0
}

// instructions returns the number of instructions of each pattern in an expression whose
// patterns are literals.
func instructions(a *ast.AST) meter {
	m := meter{}
	ast.PostOrderVisit(a.Expr(), ast.NewExprVisitor(func(e ast.Expr) {
		if e.Kind() != ast.CallKind || e.AsCall().FunctionName() != overloads.Matches {
			return
		}
		args := e.AsCall().Args()
		text, _ := args[len(args)-1].AsLiteral().(types.String)
		if parsed, err := syntax.Parse(string(text), syntax.Perl); err == nil {
			if program, err := syntax.Compile(parsed.Simplify()); err == nil {
				m[string(text)] = len(program.Inst)
			}
		}
	}))
	return m
}

// matchCost returns the cost of applying a pattern. The time for a byte grows with the
// pattern's instructions: all of them may be active at once.
func (m meter) matchCost(text, pattern ref.Val) uint64 {
	t, _ := text.(types.String)
	p, _ := pattern.(types.String)
	if len(t) > maxMatchedText {
		return 0 // boundedRegex refuses it
	}
	return uint64((len(t) + 1) * m[string(p)] / 10)
}

// boundedRegex compiles each pattern once, and limits the text that it is applied to.
var boundedRegex = &interpreter.RegexOptimization{
	Function:   overloads.Matches,
	RegexIndex: 1,
	Factory: func(call interpreter.InterpretableCall, pattern string) (interpreter.InterpretableCall, error) {
		compiled, err := regexp.Compile(pattern)
		if err != nil {
			return nil, err
		}
		return interpreter.NewCall(call.ID(), call.Function(), call.OverloadID(), call.Args(), func(args ...ref.Val) ref.Val {
			text, ok := args[0].(types.String)
			switch {
			case !ok:
				return types.MaybeNoSuchOverloadErr(args[0])
			case len(text) > maxMatchedText:
				return fail("matches takes a text of at most " + strconv.Itoa(maxMatchedText) + " bytes")
			}
			return types.Bool(compiled.MatchString(string(text)))
		}), nil
	},
}
