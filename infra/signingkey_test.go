package main

import (
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/routes"
)

var signingKeyFacts = []fact{
	{"the stack has four secrets, and migrate writes two of them", func(t *testing.T, tmpl template) {
		generated := map[string]bool{}
		for name, id := range tmpl.secrets() {
			generated[name] = tmpl.Resources[id].Properties["GenerateSecretString"] != nil
		}
		require.Equal(t, map[string]bool{"signing-key": false, "sealing-keys": false, "source-url-key": true, "token-keys": true}, generated)
	}},
	{"the generated secrets keep their logical IDs", func(t *testing.T, tmpl template) {
		const why = "with another logical ID CloudFormation would replace the secret: "
		require.Equal(t, "FunctionsTokenKeys56C82E5C", tmpl.secrets()["token-keys"], why+"tokens of earlier releases would be invalid")
		require.Equal(t, "FunctionsSourceUrlKeyAA150022", tmpl.secrets()["source-url-key"], why+"each URL of a source would be another one")
	}},
	{"the key of URLs has 64 hexadecimal digits, and nothing rotates it", func(t *testing.T, tmpl template) {
		require.Equal(t, map[string]any{
			"PasswordLength": 64.0, "ExcludePunctuation": true, "ExcludeUppercase": true, "ExcludeCharacters": "ghijklmnopqrstuvwxyz",
		}, tmpl.Resources[tmpl.secrets()["source-url-key"]].Properties["GenerateSecretString"], "after a change CloudFormation would generate another key")
		require.Empty(t, tmpl.ofType("AWS::SecretsManager::RotationSchedule"))
	}},
	{"only the functions of the table may read the key of URLs and get its ARN, and none may write it", func(t *testing.T, tmpl template) {
		readers := map[string][]string{}
		for _, name := range routes.Addressing {
			readers[name] = []string{"GetSecretValue"}
		}
		require.Equal(t, readers, tmpl.secretActions(t, "source-url-key"))
		for _, f := range routes.Functions {
			given := target(tmpl.functionVariables(t, f.Name)["SOURCE_URL_KEY"])
			require.Equal(t, slices.Contains(routes.Addressing, f.Name), given == tmpl.secrets()["source-url-key"], f.Name)
		}
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
	{"only five functions may use the sealing keys, and only migrate may write them", func(t *testing.T, tmpl template) {
		require.Equal(t, map[string][]string{
			"manage-integrations": {"GetSecretValue"}, "manage-tenants": {"GetSecretValue"}, "receive-webhook": {"GetSecretValue"},
			"relay-deliveries": {"GetSecretValue"}, "migrate": {"DescribeSecret", "GetSecretValue", "PutSecretValue"},
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
