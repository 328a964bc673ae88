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
	"github.com/flovyn/promises/shared/config"
	"github.com/flovyn/promises/shared/routes"
)

// What SAM CLI reads of a template: the folder of the code by aws:asset:path, relative to the template; a function's name in
// integrations and authorizers; variables only where the template has them too.
func (tmpl template) requireSAM(t *testing.T) {
	t.Helper()
	var env struct{ Parameters map[string]string }
	file, err := os.ReadFile("sam-env.json")
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(file, &env))
	require.ElementsMatch(t, config.Names, slices.Collect(maps.Keys(env.Parameters)))
	require.Empty(t, env.Parameters["HTTP_ALIAS"], "SAM CLI invokes no alias")
	_, err = auth.ParseSigningKey(env.Parameters["SIGNING_KEY"])
	require.NoError(t, err)
	require.Empty(t, env.Parameters["TOKEN_KEYS"], "there were no earlier tokens")
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
	for _, r := range tmpl.of("AWS::ApiGatewayV2::Authorizer") {
		require.Equal(t, "REQUEST", r.Properties["AuthorizerType"])
		require.NotEmpty(t, r.Properties["Name"])
		uri := text(t, r.Properties["AuthorizerUri"])
		require.Contains(t, uri, "/functions/")
		require.Contains(t, uri, "/invocations")
	}
	for _, r := range tmpl.of("AWS::ApiGatewayV2::Integration") {
		require.Equal(t, "AWS_PROXY", r.Properties["IntegrationType"])
		// SAM CLI joins the parts, and finds the function by its logical ID in the ARN, before the alias.
		parts := r.Properties["IntegrationUri"].(map[string]any)["Fn::Join"].([]any)[1].([]any)
		require.NotEmpty(t, parts[0].(map[string]any)["Fn::GetAtt"])
	}
}
