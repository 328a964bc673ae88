package openapi_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/openapi/openapitest"
	"github.com/flovyn/promises/shared/routes"
	"github.com/flovyn/promises/shared/skip"
)

func load(t *testing.T) *openapitest.Description {
	t.Helper()
	d, err := openapitest.Load()
	require.NoError(t, err)
	return d
}

// The description has exactly the routes of the service, and says which of them need a credential.
func TestRoutes(t *testing.T) {
	t.Parallel()
	d := load(t)
	described := map[string]bool{}
	for _, o := range d.Operations() {
		described[o.Method+" "+o.Path] = o.Operation.Security == nil
	}
	want := map[string]bool{}
	for _, r := range routes.HTTP {
		want[r.Method+" "+r.Path] = r.Authorizer != ""
	}
	require.Equal(t, want, described)
}

// Each operation says what a reader needs.
func TestOperations(t *testing.T) {
	t.Parallel()
	d := load(t)
	for id, o := range d.Operations() {
		t.Run(id, func(t *testing.T) {
			assert.NotEmpty(t, o.Summary)
			assert.NotEmpty(t, o.Description)
			require.Len(t, o.Tags, 1)
			assert.NotNil(t, d.Tags.Get(o.Tags[0]))
			if o.RequestBody != nil {
				examples := 0
				for _, media := range o.RequestBody.Value.Content {
					examples += len(media.Examples)
				}
				assert.Positive(t, examples, "an example of the body")
			}
			for _, status := range []string{"404", "500", "503"} {
				assert.NotNil(t, o.Responses.Value(status), status)
			}
			succeeds := 0
			for status, response := range o.Responses.Map() {
				if !strings.HasPrefix(status, "2") {
					continue
				}
				succeeds++
				assert.NotEmpty(t, *response.Value.Description)
				for mediaType, media := range response.Value.Content {
					assert.NotNil(t, media.Example, "an example of %s %s", status, mediaType)
				}
			}
			assert.Positive(t, succeeds)
			for _, template := range strings.Split(o.Path, "/") {
				if name, ok := strings.CutPrefix(template, "{"); ok {
					name = strings.TrimSuffix(name, "}")
					assert.NotNil(t, d.Paths.Value(o.Path).Parameters.GetByInAndName(openapi3.ParameterInPath, name), name)
				}
			}
		})
	}
}

// Each component is used.
func TestComponents(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("openapi.yaml")
	require.NoError(t, err)
	d := load(t)
	var all []string
	for name := range d.Components.Schemas {
		all = append(all, "schemas/"+name)
	}
	for name := range d.Components.Parameters {
		all = append(all, "parameters/"+name)
	}
	for name := range d.Components.Responses {
		all = append(all, "responses/"+name)
	}
	for _, name := range all {
		assert.Contains(t, string(text), "'#/components/"+name+"'")
	}
}

// TestLint applies Redocly's recommended rules.
func TestLint(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("npx"); err != nil {
		require.Empty(t, os.Getenv("CI_SYNTH"), "Node is missing, and CI_SYNTH requires it")
	}
	skip.Without(t, "npx", "which runs the linter")
	file, err := filepath.Abs("openapi.yaml")
	require.NoError(t, err)
	lint := exec.CommandContext(t.Context(), "npx", "--yes", "@redocly/cli@2.77.0", "lint", "--format=stylish", file)
	lint.Dir = t.TempDir()
	lint.Env = append(os.Environ(), "REDOCLY_TELEMETRY=off", "REDOCLY_SUPPRESS_UPDATE_NOTICE=true")
	out, err := lint.CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.NotContains(t, string(out), "warning  ", "%s", out)
}
