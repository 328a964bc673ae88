package main

import (
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/routes"
)

var signingKeyFacts = []fact{
	{"the stack has three secrets, and only token-keys has a generated value", func(t *testing.T, tmpl template) {
		require.Len(t, tmpl.secrets(), 3)
		for name, id := range tmpl.secrets() {
			generated := tmpl.Resources[id].Properties["GenerateSecretString"] != nil
			require.Equal(t, strings.HasSuffix(tmpl.Resources[id].Properties["Name"].(string), "/token-keys"), generated, "%s: migrate writes the keys", name)
		}
	}},
	{"token-keys keeps its logical ID", func(t *testing.T, tmpl template) {
		require.Equal(t, "FunctionsTokenKeys56C82E5C", tmpl.secrets()["token-keys"], "with another logical ID CloudFormation would replace the secret: tokens of earlier releases would be invalid")
	}},
	{"only create-promise may read the key, and only migrate may write it", func(t *testing.T, tmpl template) {
		require.Equal(t, map[string][]string{"create-promise": {"GetSecretValue"}, "migrate": {"DescribeSecret", "PutSecretValue"}}, tmpl.secretActions(t, "signing-key"))
	}},
	{"only functions that sign get the key's ARN", func(t *testing.T, tmpl template) {
		key := tmpl.secrets()["signing-key"]
		for _, f := range routes.Functions {
			variables := tmpl.functionVariables(t, f.Name)
			require.Equal(t, slices.Contains(routes.Signing, f.Name), target(variables["SIGNING_KEY"]) == key, f.Name)
			if f.Role != "" {
				require.Equal(t, f.Name == "create-promise", variables["SIGNING_KEY"] != "", f.Name)
			}
		}
	}},
	{"create-promise changes after all functions that verify tokens", func(t *testing.T, tmpl template) {
		_, signs := tmpl.function(t, "create-promise")
		for _, f := range routes.Functions {
			id, _ := tmpl.function(t, f.Name)
			verifies := target(tmpl.functionVariables(t, f.Name)["TOKEN_KEYS"]) != "" && f.Name != "create-promise"
			require.Equal(t, verifies, slices.Contains(signs.DependsOn, id), "%s of the previous release does not know a new key", f.Name)
		}
	}},
	{"only four functions may use the sealing keys, and only migrate may write them", func(t *testing.T, tmpl template) {
		require.Equal(t, map[string][]string{
			"manage-integrations": {"GetSecretValue"}, "manage-tenants": {"GetSecretValue"}, "relay-deliveries": {"GetSecretValue"},
			"migrate": {"DescribeSecret", "GetSecretValue", "PutSecretValue"},
		}, tmpl.secretActions(t, "sealing-keys"))
	}},
	{"only the functions of the table get the ARN of the sealing keys", func(t *testing.T, tmpl template) {
		for _, f := range routes.Functions {
			given := target(tmpl.functionVariables(t, f.Name)["SEALING_KEYS"])
			require.Equal(t, slices.Contains(routes.Sealing, f.Name), given == tmpl.secrets()["sealing-keys"], f.Name)
		}
	}},
	{"the migration runs again if the secret of the sealing keys is another one", func(t *testing.T, tmpl template) {
		for _, r := range tmpl.ofType("Custom::Migration") {
			require.Equal(t, tmpl.secrets()["sealing-keys"], target(r.Properties["SealingKeys"]))
		}
	}},
	{"the migration runs again if the key's secret is another one", func(t *testing.T, tmpl template) {
		for _, r := range tmpl.ofType("Custom::Migration") {
			require.Equal(t, tmpl.secrets()["signing-key"], target(r.Properties["SigningKey"]))
		}
	}},
}

// secrets returns the logical IDs of the secrets by name, without the stage.
func (tmpl template) secrets() map[string]string {
	secrets := map[string]string{}
	for id, r := range tmpl.ofType("AWS::SecretsManager::Secret") {
		secrets[strings.TrimPrefix(r.Properties["Name"].(string), "promises-"+tmpl.stage+"/")] = id
	}
	return secrets
}

// secretActions returns the actions on a secret that each function's role may do. It fails if anything but the policy of one
// role refers to the secret.
func (tmpl template) secretActions(t *testing.T, name string) map[string][]string {
	t.Helper()
	key := tmpl.secrets()[name]
	functions, allowed := map[string]string{}, map[string][]string{} // by role; by function
	for _, f := range routes.Functions {
		_, r := tmpl.function(t, f.Name)
		functions[target(r.Properties["Role"])] = f.Name
	}
	for _, kind := range []string{"AWS::IAM::Policy", "AWS::IAM::ManagedPolicy", "AWS::IAM::Role", "AWS::SecretsManager::ResourcePolicy"} {
		for id, r := range tmpl.ofType(kind) {
			if !strings.Contains(text(t, r.Properties), key) {
				continue
			}
			require.Equal(t, "AWS::IAM::Policy", kind, id)
			require.Len(t, r.Properties["Roles"], 1)
			function := functions[target(r.Properties["Roles"])]
			for _, s := range r.Properties["PolicyDocument"].(map[string]any)["Statement"].([]any) {
				if s := s.(map[string]any); strings.Contains(text(t, s["Resource"]), key) {
					actions, ok := s["Action"].([]any)
					if !ok {
						actions = []any{s["Action"]}
					}
					for _, action := range actions {
						allowed[function] = append(allowed[function], strings.TrimPrefix(action.(string), "secretsmanager:"))
					}
				}
			}
		}
	}
	return allowed
}
