package gateway

import (
	"go/ast"
	"go/parser"
	"go/token"
	"go/types"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// layers lists the files of this package from the lowest to the highest. A file uses
// only names, methods and struct fields that are declared in itself or in a file
// before it.
var layers = strings.Fields(`
	version number time media fielderror
	malformed object workflow field
	event call handler http direct
	encode problem
	callback webhook receive notify create read delivery settle wait destination definition source trial receipt operation gateway
	tenant limits operator manage
`)

func TestFilesFormLayers(t *testing.T) {
	t.Parallel()
	fset, files := token.NewFileSet(), []*ast.File{}
	paths, err := filepath.Glob("*.go")
	require.NoError(t, err)
	for _, path := range paths {
		if !strings.HasSuffix(path, "_test.go") {
			require.Contains(t, layers, strings.TrimSuffix(path, ".go"), "%s has no layer: add it to layers", path)
			file, err := parser.ParseFile(fset, path, nil, parser.SkipObjectResolution)
			require.NoError(t, err)
			files = append(files, file)
		}
	}
	info := types.Info{Uses: map[*ast.Ident]types.Object{}}
	_, _ = (&types.Config{Error: func(error) {}}).Check("gateway", fset, files, &info) // without its imports
	level := func(p token.Pos) int {
		return slices.Index(layers, strings.TrimSuffix(filepath.Base(fset.Position(p).Filename), ".go"))
	}
	for use, object := range info.Uses {
		if object.Pkg() != nil && object.Pkg().Path() == "gateway" && level(object.Pos()) > level(use.Pos()) {
			t.Errorf("%s uses %s, which %s, a higher file, declares", fset.Position(use.Pos()), use.Name, fset.Position(object.Pos()).Filename)
		}
	}
}
