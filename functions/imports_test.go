// Package functions_test checks rules of the whole repository: the imports between packages, the table of routes, the links and
// paths in documents, the prose, and the length of files and functions.
package functions_test

import (
	"os/exec"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const module = "github.com/flovyn/promises/"

// allowed lists the packages of this module that each package may import. Only tests may import a package that is not listed.
var allowed = map[string][]string{
	"shared/promise":      {},
	"shared/rawjson":      {},
	"shared/routes":       {},
	"shared/config":       {},
	"shared/telemetry":    {},
	"shared/localpg":      {},
	"migrations":          {},
	"migrations/snapshot": {"shared/localpg"},
	"shared/repository":   {"shared/promise"},
	"shared/gateway":      {"shared/promise", "shared/rawjson"},
	"shared/auth":         {"shared/promise"},
	"shared/sweep":        {"shared/promise"},
	"shared/delivery":     {"shared/promise"},
	"shared/webhook":      {"shared/promise"},
	"shared/client":       {},
	"shared/database":     {},
	"shared/secret":       {},
	"shared/seal":         {},
	"shared/webhook/rule": {"shared/promise"},
	"shared/delivery/awssender": {
		"shared/delivery",
	},
	"shared/delivery/invoke": {
		"shared/delivery",
	},
	"shared/client/invoke": {
		"shared/client",
	},
	"shared/app": {
		"shared/auth", "shared/config", "shared/database", "shared/delivery", "shared/gateway", "shared/promise", "shared/rawjson",
		"shared/repository", "shared/seal", "shared/secret", "shared/sweep", "shared/telemetry", "shared/webhook",
	},
	"shared/migrate":                {"migrations"},
	"shared/dbtest":                 {"shared/localpg", "shared/migrate"},
	"shared/skip":                   {},
	"shared/openapi":                {},
	"shared/openapi/openapitest":    {"shared/openapi"},
	"functions":                     {"shared/app", "shared/gateway"},
	"functions/receive-webhook":     {"shared/app", "shared/webhook/rule"},
	"functions/relay-deliveries":    {"shared/app", "shared/delivery", "shared/delivery/invoke"},
	"functions/send-deliveries":     {"shared/app", "shared/delivery/awssender"},
	"functions/manage-integrations": {"shared/app", "shared/delivery/invoke", "shared/webhook/rule"},
	"functions/migrate": {
		"shared/auth", "shared/config", "shared/database", "shared/migrate", "shared/promise", "shared/rawjson", "shared/seal",
		"shared/secret", "shared/telemetry",
	},
	"infra": {
		"infra/build", "shared/config", "shared/database", "shared/delivery", "shared/routes", "shared/sweep", "shared/telemetry",
	},
	"infra/build":           {"shared/routes"},
	"infra/local/reference": {},
	"infra/local":           {"infra/build", "infra/local", "shared/auth", "shared/config", "shared/localpg", "shared/openapi", "shared/routes", "shared/seal", "shared/webhook"},
	"infra/bench":           {"infra/local", "shared/auth", "shared/localpg", "shared/migrate", "shared/promise", "shared/repository", "shared/routes", "shared/sweep"},
}

// beside lists what these packages may import beside the standard library.
var beside = map[string][]string{
	"shared/promise": {"github.com/google/uuid"},
	"shared/rawjson": {},
	"shared/client":  {"github.com/google/uuid"},
	"shared/seal":    {},
	"shared/webhook": {},
}

// neverLinked lists the packages that no function may link. In addition, only migrate may link the migration library.
var neverLinked = []string{
	"github.com/aws/aws-cdk-go", "github.com/stretchr", "github.com/fergusstrange", "testing",
	"github.com/slack-go/slack", "github.com/standard-webhooks/standard-webhooks", "github.com/stripe/stripe-go", // oracles

	"github.com/aws/aws-sdk-go-v2/config", // 7 MB: a function finds its credentials in its environment
}

// callsLambda lists the functions that may link the client of Lambda.
var callsLambda = []string{"manage-integrations", "relay-deliveries", "send-deliveries"}

// judgesRules lists the functions that may link CEL, which makes a binary larger and its start slower.
var judgesRules = []string{"manage-integrations", "receive-webhook"}

// asDeployed are the build tags of deployed functions (see infra/build).
const asDeployed = "lambda.norpc"

// list runs "go list" at the top of the module and returns its lines.
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
		t.Run(pkg, func(t *testing.T) {
			for _, name := range names[1:] {
				if of, ours := strings.CutPrefix(name, module); ours {
					require.True(t, known, "the package has no rule")
					require.True(t, slices.ContainsFunc(may, func(m string) bool {
						return of == m || strings.HasPrefix(of, m+"/")
					}), "it must not import %s", of)
				} else if more, strict := beside[pkg]; strict && strings.Contains(name, ".") {
					require.Contains(t, more, name, "beside the standard library it may import these only")
				}
			}
		})
	}
}

func TestFunctionsLinkNoMoreThanTheyNeed(t *testing.T) {
	t.Parallel()
	for _, function := range list(t, "-f", `{{if eq .Name "main"}}{{.ImportPath}}{{end}}`, "./functions/...") {
		t.Run(path.Base(function), func(t *testing.T) {
			for _, dep := range list(t, "-tags", asDeployed, "-deps", function) {
				require.False(t, slices.ContainsFunc(neverLinked, func(p string) bool {
					return dep == p || strings.HasPrefix(dep, p+"/")
				}), "it links %s", dep)
				if !strings.HasSuffix(function, "/send-deliveries") { // the clients of six services double the time of a start
					require.NotEqual(t, module+"shared/delivery/awssender", dep)
				}
				if !slices.Contains(callsLambda, path.Base(function)) {
					require.NotEqual(t, "github.com/aws/aws-sdk-go-v2/service/lambda", dep)
				}
				if !slices.Contains(judgesRules, path.Base(function)) {
					require.False(t, strings.HasPrefix(dep, "cel.dev/"), "it links %s", dep)
				}
				if !strings.HasSuffix(function, "/migrate") {
					require.False(t, strings.HasPrefix(dep, "github.com/pressly/goose"), "it links %s", dep)
				}
			}
		})
	}
}
