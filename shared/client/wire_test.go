package client_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/client"
	"github.com/flovyn/promises/shared/promise"
)

// constants returns the values of the constants of each type in a folder.
func constants(t *testing.T, folder string) map[string][]string {
	t.Helper()
	found := map[string][]string{}
	files, err := parser.ParseDir(token.NewFileSet(), folder, nil, 0) //nolint:staticcheck // no build tags, and no types are needed
	require.NoError(t, err)
	for _, pkg := range files {
		for file := range maps.Values(pkg.Files) {
			ast.Inspect(file, func(n ast.Node) bool {
				spec, ok := n.(*ast.ValueSpec)
				if !ok || len(spec.Values) != 1 {
					return true
				}
				name, typed := spec.Type.(*ast.Ident)
				literal, isText := spec.Values[0].(*ast.BasicLit)
				if typed && isText && literal.Kind == token.STRING {
					text, err := strconv.Unquote(literal.Value)
					require.NoError(t, err)
					found[name.Name] = append(found[name.Name], text)
				}
				return true
			})
		}
	}
	for _, list := range found {
		slices.Sort(list)
	}
	return found
}

// The client's constants are those of the domain.
func TestConstantsAreTheDomains(t *testing.T) {
	t.Parallel()
	mine, theirs := constants(t, "."), constants(t, "../promise")
	for _, name := range []string{"Code", "State", "Outcome", "EventType", "DeliveryState", "ReceiptOutcome"} {
		t.Run(name, func(t *testing.T) {
			require.NotEmpty(t, mine[name])
			require.Equal(t, theirs[name], mine[name])
		})
	}
	require.Len(t, mine["Code"], len(promise.Codes))
	require.ErrorIs(t, client.CodeNotFound, client.CodeNotFound)
}

// deps lists the packages beside the standard library that a package links.
func deps(t *testing.T, pkg string) (found []string) {
	t.Helper()
	out, err := exec.Command("go", "list", "-deps", "-f", "{{if not .Standard}}{{.ImportPath}}{{end}}", pkg).Output()
	require.NoError(t, err)
	return strings.Fields(string(out))
}

// Users link the client: it brings google/uuid alone. Those who invoke the functions also link the AWS SDK's client of Lambda.
func TestDependencies(t *testing.T) {
	t.Parallel()
	const module = "github.com/flovyn/promises/shared/client"
	require.Equal(t, []string{"github.com/google/uuid", module}, deps(t, "."))
	for _, dep := range deps(t, "./invoke") {
		allowed := slices.ContainsFunc([]string{
			"github.com/google/uuid", module, "github.com/aws/aws-sdk-go-v2/", "github.com/aws/smithy-go",
		}, func(prefix string) bool { return strings.HasPrefix(dep, prefix) })
		require.True(t, allowed, "invoke links %s", dep)
		require.NotContains(t, dep, "aws-sdk-go-v2/config", "the caller finds its credentials itself")
		service, isService := strings.CutPrefix(dep, "github.com/aws/aws-sdk-go-v2/service/")
		require.True(t, !isService || strings.HasPrefix(service, "lambda") || strings.HasPrefix(service, "internal/"), "invoke links %s", dep)
	}
}
