// Package functions_test holds the architecture: who may import whom.
package functions_test

import (
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const module = "github.com/flovyn/promises/"

// What each package may import of this module. A package that is not here may not be imported from anywhere but a test.
var allowed = map[string][]string{
	"shared/promise":    {},
	"shared/routes":     {},
	"shared/config":     {},
	"shared/telemetry":  {},
	"shared/localpg":    {},
	"migrations":        {},
	"shared/repository": {"shared/promise"},
	"shared/gateway":    {"shared/promise"},
	"shared/auth":       {"shared/promise"},
	"shared/sweep":      {"shared/promise"},
	"shared/database":   {},
	"shared/secret":     {},
	"shared/app": {
		"shared/auth", "shared/config", "shared/database", "shared/gateway", "shared/promise", "shared/repository", "shared/secret",
		"shared/sweep", "shared/telemetry",
	},
	"shared/migrate": {"migrations"},
	"shared/dbtest":  {"shared/localpg", "shared/migrate"},
	"shared/skip":    {},
	"functions":      {"shared/app", "shared/gateway"},
	"functions/migrate": {
		"shared/auth", "shared/config", "shared/database", "shared/migrate", "shared/promise", "shared/secret", "shared/telemetry",
	},
	"infra": {
		"infra/build", "shared/config", "shared/database", "shared/routes", "shared/sweep", "shared/telemetry",
	},
	"infra/build": {"shared/routes"},
	"infra/local": {"infra/build", "infra/local", "shared/auth", "shared/config", "shared/localpg", "shared/routes"},
	"infra/bench": {"infra/local", "shared/auth", "shared/localpg", "shared/migrate", "shared/promise", "shared/repository", "shared/routes", "shared/sweep"},
}

// What no function may link; migrate alone may link the migration library.
var neverLinked = []string{
	"github.com/aws/aws-cdk-go", "github.com/stretchr", "github.com/fergusstrange", "testing",
	"github.com/aws/aws-sdk-go-v2/config", // 7 MB: a function finds its credentials in its environment
}

// asDeployed are the tags that the functions are deployed with (see infra/build).
const asDeployed = "lambda.norpc"

func list(t *testing.T, args ...string) []string {
	t.Helper()
	cmd := exec.Command("go", append([]string{"list"}, args...)...)
	cmd.Dir = ".."
	out, err := cmd.Output()
	require.NoError(t, err)
	return strings.Split(strings.TrimSpace(string(out)), "\n")
}

func TestImportsGoOneWay(t *testing.T) {
	t.Parallel()
	for _, line := range list(t, "-f", `{{.ImportPath}} {{join .Imports " "}}`, "./...") {
		names := strings.Fields(line)
		pkg := strings.TrimPrefix(names[0], module)
		may, known := allowed[pkg]
		for parent := pkg; !known && strings.Contains(parent, "/"); {
			parent = parent[:strings.LastIndex(parent, "/")]
			may, known = allowed[parent]
		}
		for _, name := range names[1:] {
			if of, ours := strings.CutPrefix(name, module); ours {
				require.True(t, known, "%s has no rule", pkg)
				require.True(t, slices.ContainsFunc(may, func(m string) bool {
					return of == m || strings.HasPrefix(of, m+"/")
				}), "%s must not import %s", pkg, of)
			} else if pkg == "shared/promise" && strings.Contains(name, ".") {
				require.Equal(t, "github.com/google/uuid", name, "%s knows the standard library only", pkg)
			}
		}
	}
}

func TestFunctionsLinkNoMoreThanTheyNeed(t *testing.T) {
	t.Parallel()
	for _, function := range list(t, "-f", `{{if eq .Name "main"}}{{.ImportPath}}{{end}}`, "./functions/...") {
		for _, dep := range list(t, "-tags", asDeployed, "-deps", function) {
			require.False(t, slices.ContainsFunc(neverLinked, func(p string) bool {
				return dep == p || strings.HasPrefix(dep, p+"/")
			}), "%s links %s", function, dep)
			if !strings.HasSuffix(function, "/migrate") {
				require.False(t, strings.HasPrefix(dep, "github.com/pressly/goose"), "%s links %s", function, dep)
			}
		}
	}
}
