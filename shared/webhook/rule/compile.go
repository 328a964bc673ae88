package rule

import (
	"slices"
	"strconv"
	"strings"
	"sync"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/overloads"
	"cel.dev/cel-go/common/types"

	"github.com/flovyn/promises/shared/promise"
)

// The limits of an expression beside promise.MaxExpression. They bound the time of its
// compilation.
const (
	maxNodes    = 5_000
	maxDepth    = 100 // of the grammar's rules; a sum of 90 texts is as deep
	maxLiterals = 16  // lists, maps, optional.of and type within each other
	maxMacros   = 10  // calls of map, filter, exists and the like
	maxDetail   = 300 // bytes of an error's text that cel makes
)

// A scope is a set of variables and of permitted results of an expression.
type scope struct {
	variables []string // item is added if the definition has `each`
	noItem    bool
	results   []types.Kind // empty: each that JSON can hold
	want      string       // the permitted results, for an error
}

var (
	requestVariables = []string{"body", "headers", "query"}

	eventScope = scope{variables: []string{"body"}, results: []types.Kind{types.StringKind, types.IntKind, types.UintKind}, want: "a string or an int"}
	listScope  = scope{variables: requestVariables, noItem: true, results: []types.Kind{types.ListKind}, want: "a list"}
	whenScope  = scope{variables: requestVariables, results: []types.Kind{types.BoolKind}, want: "a bool"}
	keyScope   = scope{variables: requestVariables, results: []types.Kind{types.StringKind}, want: "a string: use string(...)"}
	errorScope = scope{variables: requestVariables, results: []types.Kind{types.StringKind, types.NullTypeKind}, want: "a string or null: use string(...)"}
	valueScope = scope{variables: requestVariables, want: "a value that JSON has; of an optional value use orValue(...)"}
)

// noJSON lists the kinds of values that JSON does not have.
var noJSON = []types.Kind{types.OpaqueKind, types.TypeKind, types.DurationKind, types.StructKind}

// An expression is a compiled expression.
type expression struct {
	text    string
	program cel.Program
}

// A compiler compiles the expressions of one definition.
type compiler struct {
	definition promise.SourceDefinition
	items      bool // the definition has `each`
}

// environment is built when the first source is compiled, because a start of the process
// must not pay for it.
var environment = sync.OnceValues(func() (*cel.Env, error) {
	return cel.NewEnv(
		cel.OptionalTypes(),
		functions(),
		cel.ParserExpressionSizeLimit(promise.MaxExpression),
		cel.ParserRecursionLimit(maxDepth),
		cel.ParserErrorRecoveryLimit(4),
		cel.ExpressionNodeLimit(maxNodes),
		cel.RegexProgramSizeLimit(maxRegex),
	)
})

// declared are the types of the variables.
var declared = map[string]*cel.Type{
	"body":    cel.DynType,
	"item":    cel.DynType,
	"headers": cel.MapType(cel.StringType, cel.StringType),
	"query":   cel.MapType(cel.StringType, cel.StringType),
}

// with returns the environment with the variables of a scope.
func (c compiler) with(s scope) (*cel.Env, error) {
	env, err := environment()
	if err != nil {
		return nil, err
	}
	var options []cel.EnvOption
	for _, name := range s.variables {
		options = append(options, cel.Variable(name, declared[name]))
	}
	if c.items && !s.noItem {
		options = append(options, cel.Variable("item", declared["item"]))
	}
	return env.Extend(options...)
}

// compile returns nil for an empty text. field is the field of the definition that has
// the text.
func (c compiler) compile(field, text string, s scope) (*expression, error) {
	if text == "" {
		return nil, nil
	}
	if len(text) > promise.MaxExpression {
		return nil, fault(field, promise.CodeOutOfRange, field+" may have at most "+strconv.Itoa(promise.MaxExpression)+" bytes.")
	}
	env, err := c.with(s)
	if err != nil {
		return nil, err
	}
	parsed, issues := env.Parse(text)
	if issues.Err() != nil {
		return nil, c.issue(field, s, issues.Errors()[0])
	}
	if e := unsupported(parsed.NativeRep()); e != nil {
		return nil, c.issue(field, s, e)
	}
	checked, issues := env.Check(parsed)
	if issues.Err() != nil {
		return nil, c.issue(field, s, issues.Errors()[0])
	}
	if !s.permits(checked.OutputType()) {
		return nil, fault(field, promise.CodeOutOfRange, field+" makes a value of type "+typeName(checked.OutputType())+". It must be "+s.want+".")
	}
	program, err := env.Program(checked, cel.CostTracking(instructions(checked.NativeRep())), cel.CostLimit(MaxCost), cel.InterruptCheckFrequency(64),
		cel.MemoryTracking(types.MemoryTrackerSizeCalculator(sizes)), cel.MemoryLimit(maxSize), cel.OptimizeRegex(boundedRegex))
	if err != nil {
		return nil, fault(field, promise.CodeOutOfRange, field+": "+cut(err.Error(), maxDetail)+".")
	}
	return &expression{text: text, program: program}, nil
}

// permits reports whether an expression of type t may succeed. A dyn may.
func (s scope) permits(t *types.Type) bool {
	switch k := t.Kind(); {
	case k == types.DynKind || k == types.AnyKind || k == types.TypeParamKind:
		return true
	case len(s.results) == 0:
		return !slices.Contains(noJSON, k)
	default:
		return slices.Contains(s.results, k)
	}
}

// typeName returns the name of a type, without what its elements are.
func typeName(t *types.Type) string { return cut(t.TypeName(), 40) }

// issue returns the error for cel's report.
func (c compiler) issue(field string, s scope, e *common.Error) error {
	message := strings.ReplaceAll(e.Message, " (in container '')", "")
	detail := field
	if e.Location.Line() > 0 { // the parser's limits have no place
		detail += ", line " + strconv.Itoa(e.Location.Line()) + ", column " + strconv.Itoa(e.Location.Column()+1)
	}
	detail += ": " + cut(message, maxDetail)
	if strings.Contains(message, "undeclared reference") {
		names := slices.Clone(s.variables)
		if c.items && !s.noItem {
			names = append(names, "item")
		}
		detail += ". The variables are: " + strings.Join(names, ", ")
	}
	return fault(field, promise.CodeOutOfRange, strings.TrimSuffix(detail, ".")+".")
}

// unsupported returns an error for an expression that cel accepts, and whose cost would
// have no bound.
func unsupported(a *ast.AST) *common.Error {
	var found *common.Error
	macros := 0
	if literalDepth(ast.NavigateAST(a)) > maxLiterals {
		return &common.Error{
			Location: a.SourceInfo().GetStartLocation(a.Expr().ID()),
			Message:  "an expression may have at most " + strconv.Itoa(maxLiterals) + " lists, maps and calls of optional.of and type within each other",
		}
	}
	report := func(e ast.Expr, message string) {
		if found == nil {
			found = &common.Error{Location: a.SourceInfo().GetStartLocation(e.ID()), Message: message}
		}
	}
	ast.PostOrderVisit(a.Expr(), ast.NewExprVisitor(func(e ast.Expr) {
		switch e.Kind() {
		case ast.StructKind:
			report(e, "rules make no protobuf messages")
		case ast.ComprehensionKind:
			if macros++; macros > maxMacros {
				report(e, "an expression may have at most "+strconv.Itoa(maxMacros)+" calls of map, filter, exists and the like")
			}
		case ast.CallKind:
			call := e.AsCall()
			if args := call.Args(); call.FunctionName() == overloads.Matches && len(args) > 0 {
				if why := unsupportedPattern(args[len(args)-1]); why != "" {
					report(e, why)
				}
			}
			if call.FunctionName() == omitName && !omitsFields(call) {
				report(e, "the path of omit must be a literal of names with a dot between them, such as 'data.object.token'")
			}
		}
	}))
	return found
}

// literalDepth returns the number of literals of lists and maps, and of calls that make a
// type of another type, that are within each other. The time of cel's check grows with its
// cube.
func literalDepth(e ast.NavigableExpr) int {
	deepest := 0
	for _, child := range e.Children() {
		deepest = max(deepest, literalDepth(child))
	}
	switch e.Kind() {
	case ast.ListKind, ast.MapKind:
		deepest++
	case ast.CallKind:
		if name := e.AsCall().FunctionName(); name == "of" || name == "ofNonZeroValue" || name == overloads.TypeConvertType {
			deepest++
		}
	}
	return deepest
}

// compileRules expands the ready-made rules and compiles all.
func (c compiler) compileRules() ([]rule, error) {
	var rules []rule
	for i, d := range c.definition.Rules {
		field := "rules[" + strconv.Itoa(i) + "]"
		if d.Preset == "" {
			r, err := c.compileRule(field+".", strconv.Itoa(i+1), d)
			if err != nil {
				return nil, err
			}
			rules = append(rules, r)
		} else {
			expanded, err := c.expand(field, d)
			if err != nil {
				return nil, err
			}
			for j, e := range expanded {
				r, err := c.compileRule(field+".preset["+strconv.Itoa(j)+"].", d.Preset, e)
				if err != nil {
					return nil, err
				}
				rules = append(rules, r)
			}
		}
		if len(rules) > promise.MaxSourceRules {
			return nil, fault("rules", promise.CodeOutOfRange, "A source may have at most "+strconv.Itoa(promise.MaxSourceRules)+
				" rules. A ready-made rule counts as the rules that it stands for.")
		}
	}
	return rules, nil
}

// expand returns the rules that a rule with a preset stands for.
func (c compiler) expand(field string, d promise.SourceRule) ([]promise.SourceRule, error) {
	if d.When != "" || d.Key != "" || d.Then != "" || d.Value != "" || d.Error != "" {
		return nil, fault(field, promise.CodeOutOfRange, field+" has a preset. Beside it only holdSeconds is possible.")
	}
	rules, ok := Expand(d.Preset)
	if !ok {
		return nil, fault(field+".preset", promise.CodeOutOfRange, field+".preset must be one of "+strings.Join(Ready(), ", ")+".")
	}
	if keys := readyRules[d.Preset].keys; !strings.HasPrefix(keys, c.definition.KeyPrefix) && !strings.HasPrefix(c.definition.KeyPrefix, keys) {
		return nil, fault(field+".preset", promise.CodeOutOfRange, "The keys of "+d.Preset+" begin with "+keys+", and keyPrefix with something else. Send keyPrefix "+keys+".")
	}
	if d.HoldSeconds != nil {
		if err := checkHold(field+".holdSeconds", *d.HoldSeconds); err != nil {
			return nil, err
		}
	}
	for i := range rules {
		rules[i].HoldSeconds = d.HoldSeconds
	}
	return rules, nil
}

// compileRule compiles a rule. field is the field that has it, with a full stop.
func (c compiler) compileRule(field, name string, d promise.SourceRule) (rule, error) {
	r := rule{name: name, then: d.Then, hold: c.definition.HoldSeconds}
	if err := checkRule(field, d); err != nil {
		return r, err
	}
	if d.HoldSeconds != nil {
		if err := checkHold(field+"holdSeconds", *d.HoldSeconds); err != nil {
			return r, err
		}
		r.hold = *d.HoldSeconds
	}
	for _, e := range []struct {
		name, text string
		scope      scope
		into       **expression
	}{
		{"when", d.When, whenScope, &r.when}, {"key", d.Key, keyScope, &r.key},
		{"value", d.Value, valueScope, &r.value}, {"error", d.Error, errorScope, &r.message},
	} {
		var err error
		if *e.into, err = c.compile(field+e.name, e.text, e.scope); err != nil {
			return r, err
		}
	}
	return r, nil
}

// checkRule fails unless the fields of a rule fit its `then`.
func checkRule(field string, d promise.SourceRule) error {
	switch d.Then {
	case thenResolve, thenReject, thenIgnore:
	case "":
		return fault(field+"then", promise.CodeMissingField, field+"then is missing. Send resolve, reject or ignore.")
	default:
		return fault(field+"then", promise.CodeOutOfRange, field+"then must be resolve, reject or ignore.")
	}
	switch {
	case d.Key == "" && d.Then != thenIgnore:
		return fault(field+"key", promise.CodeMissingField, field+"key is missing. Send an expression for the promise's idempotency key.")
	case d.Key != "" && d.Then == thenIgnore:
		return fault(field+"key", promise.CodeOutOfRange, field+"key must be absent from a rule that ignores.")
	case d.Value != "" && d.Then != thenResolve:
		return fault(field+"value", promise.CodeOutOfRange, field+"value must be absent unless then is resolve.")
	case d.Error != "" && d.Then != thenReject:
		return fault(field+"error", promise.CodeOutOfRange, field+"error must be absent unless then is reject.")
	}
	return nil
}
