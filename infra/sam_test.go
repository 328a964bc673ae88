package main

import (
	"bytes"
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/auth"
	"github.com/flovyn/promises/shared/routes"
	"github.com/flovyn/promises/shared/seal"
)

// SAM CLI finds a function's code by the metadata aws:asset:path, relative to the template. It finds a function by its logical
// ID in integrations and authorizers. It sets a variable only if the template sets it too.
var samFacts = []fact{
	{"each function's code is a folder with an arm64 binary", func(t *testing.T, tmpl template) {
		for _, f := range routes.Functions {
			_, r := tmpl.function(t, f.Name)
			require.Equal(t, "Code", r.Metadata["aws:asset:property"])
			folder := r.Metadata["aws:asset:path"].(string)
			require.False(t, filepath.IsAbs(folder))
			code, err := os.ReadFile(filepath.Join(tmpl.dir, folder, "bootstrap"))
			require.NoError(t, err)
			require.True(t, bytes.HasPrefix(code, []byte("\x7fELF\x02")), f.Name)
			require.EqualValues(t, 0xb7, code[18], "%s: not for arm64", f.Name)
			require.Equal(t, "bootstrap", r.Properties["Handler"])
		}
	}},
	{"each authorizer has a name and invokes a function", func(t *testing.T, tmpl template) {
		for _, r := range tmpl.ofType("AWS::ApiGatewayV2::Authorizer") {
			require.Equal(t, "REQUEST", r.Properties["AuthorizerType"])
			require.NotEmpty(t, r.Properties["Name"])
			uri := text(t, r.Properties["AuthorizerUri"])
			require.Contains(t, uri, "/functions/")
			require.Contains(t, uri, "/invocations")
		}
	}},
	{"each integration's URI begins with the function's ARN", func(t *testing.T, tmpl template) {
		for _, r := range tmpl.ofType("AWS::ApiGatewayV2::Integration") {
			require.Equal(t, "AWS_PROXY", r.Properties["IntegrationType"])
			// SAM CLI joins the parts and reads the logical ID from the ARN, before the alias.
			parts := r.Properties["IntegrationUri"].(map[string]any)["Fn::Join"].([]any)[1].([]any)
			require.NotEmpty(t, parts[0].(map[string]any)["Fn::GetAtt"])
		}
	}},
}

// sam-env.json sets the variables of the functions for SAM CLI.
func TestSAMEnvironment(t *testing.T) {
	t.Parallel()
	var env struct{ Parameters map[string]string }
	file, err := os.ReadFile("sam-env.json")
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(file, &env))
	t.Run("sets every variable that the code reads", func(t *testing.T) {
		require.ElementsMatch(t, deployedNames(), slices.Collect(maps.Keys(env.Parameters)))
	})
	t.Run("sets no alias, because SAM CLI invokes none", func(t *testing.T) {
		require.Empty(t, env.Parameters["HTTP_ALIAS"])
	})
	t.Run("sets a valid signing key", func(t *testing.T) {
		_, err := auth.ParseSigningKey(env.Parameters["SIGNING_KEY"])
		require.NoError(t, err)
	})
	t.Run("sets valid sealing keys", func(t *testing.T) {
		_, err := seal.Parse(env.Parameters["SEALING_KEYS"])
		require.NoError(t, err)
	})
	t.Run("sets a valid key of URLs", func(t *testing.T) {
		require.Regexp(t, "^[0-9a-f]{64}$", env.Parameters["SOURCE_URL_KEY"])
	})
	t.Run("sets no function that sends, because SAM CLI emulates no deliveries", func(t *testing.T) {
		require.Empty(t, env.Parameters["SEND_FUNCTION"])
	})
	t.Run("sets no keys of earlier releases", func(t *testing.T) {
		require.Empty(t, env.Parameters["TOKEN_KEYS"])
	})
}
