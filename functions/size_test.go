package functions_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// These bounds hold for code outside tests.
const (
	maxFileLines     = 400
	maxFunctionLines = 60
)

func TestSize(t *testing.T) {
	t.Parallel()
	var code []string
	for _, file := range proseFiles(t, "..") {
		if isCode(file) {
			code = append(code, file)
		}
	}
	require.NotEmpty(t, code)
	for _, file := range code {
		text, err := os.ReadFile(filepath.Join("..", file))
		require.NoError(t, err)
		for _, row := range tooLong(t, file, string(text)) {
			t.Error(row)
		}
	}
}

// tooLong returns a row for the file, and for each of its functions, that has too many lines.
func tooLong(t *testing.T, file, text string) (rows []string) {
	t.Helper()
	if lines := strings.Count(text, "\n"); lines > maxFileLines {
		rows = append(rows, fmt.Sprintf("%s:1: the file has %d lines; split it: at most %d", file, lines, maxFileLines))
	}
	fset := token.NewFileSet()
	parsed, err := parser.ParseFile(fset, file, text, 0)
	require.NoError(t, err)
	ast.Inspect(parsed, func(n ast.Node) bool {
		name := "a function literal"
		switch f := n.(type) {
		case *ast.FuncDecl:
			name = f.Name.Name
		case *ast.FuncLit:
		default:
			return true
		}
		first := fset.Position(n.Pos()).Line
		if lines := fset.Position(n.End()).Line - first + 1; lines > maxFunctionLines {
			rows = append(rows, fmt.Sprintf("%s:%d: %s has %d lines; split it: at most %d", file, first, name, lines, maxFunctionLines))
		}
		return true
	})
	return rows
}

func TestSizeBounds(t *testing.T) {
	t.Parallel()
	lines := func(n int) string { return strings.Repeat("\n", n) }
	for _, c := range []struct {
		name, text string
		rows       []string
	}{
		{"file at the bound", "package p" + lines(maxFileLines), nil},
		{"file", "package p" + lines(maxFileLines+1), []string{"f.go:1: the file has 401 lines; split it: at most 400"}},
		{"function at the bound", "package p\nfunc f() {" + lines(maxFunctionLines-1) + "}\n", nil},
		{"function", "package p\nfunc f() {" + lines(maxFunctionLines) + "}\n", []string{"f.go:2: f has 61 lines; split it: at most 60"}},
		{"method", "package p\ntype t struct{}\nfunc (t) m() {" + lines(maxFunctionLines) + "}\n", []string{"f.go:3: m has 61 lines; split it: at most 60"}},
		{"literal", "package p\nvar f = func() {" + lines(maxFunctionLines) + "}\n", []string{"f.go:2: a function literal has 61 lines; split it: at most 60"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			require.Equal(t, c.rows, tooLong(t, "f.go", c.text))
		})
	}
}
