package main

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/routes"
)

var functionFacts = []fact{
	{"each runs on arm64 with the timeout and memory of the table", func(t *testing.T, tmpl template) {
		for _, f := range routes.Functions {
			_, r := tmpl.function(t, f.Name)
			require.Equal(t, []any{"arm64"}, r.Properties["Architectures"], f.Name)
			require.Equal(t, "provided.al2023", r.Properties["Runtime"], f.Name)
			require.EqualValues(t, f.Timeout.Seconds(), r.Properties["Timeout"], f.Name)
			require.EqualValues(t, f.MemoryMB, r.Properties["MemorySize"], f.Name)
		}
	}},
	{"each is traced", func(t *testing.T, tmpl template) {
		for _, f := range routes.Functions {
			_, r := tmpl.function(t, f.Name)
			require.Equal(t, map[string]any{"Mode": "Active"}, r.Properties["TracingConfig"], f.Name)
		}
	}},
	{"each logs text to a log group of the stack", func(t *testing.T, tmpl template) {
		for _, f := range routes.Functions {
			_, r := tmpl.function(t, f.Name)
			require.Equal(t, "AWS::Logs::LogGroup", tmpl.Resources[target(r.Properties["LoggingConfig"])].Type, f.Name)
			require.Equal(t, "Text", r.Properties["LoggingConfig"].(map[string]any)["LogFormat"], "%s: Lambda's JSON format would drop the metrics", f.Name)
		}
	}},
	{"each runs in the VPC, except send-deliveries", func(t *testing.T, tmpl template) {
		for _, f := range routes.Functions {
			_, r := tmpl.function(t, f.Name)
			require.Equal(t, f.Name != "send-deliveries", r.Properties["VpcConfig"] != nil, f.Name)
		}
	}},
	{"only a large stage reserves concurrency", func(t *testing.T, tmpl template) {
		for _, f := range routes.Functions {
			_, r := tmpl.function(t, f.Name)
			if tmpl.large {
				require.EqualValues(t, concurrency[f.Name], r.Properties["ReservedConcurrentExecutions"], f.Name)
			} else {
				require.NotContains(t, r.Properties, "ReservedConcurrentExecutions", "%s: a new account has none to reserve", f.Name)
			}
		}
	}},
	{"each has its own role without managed policies", func(t *testing.T, tmpl template) {
		roles := map[string]bool{}
		for _, f := range routes.Functions {
			_, r := tmpl.function(t, f.Name)
			role := target(r.Properties["Role"])
			require.False(t, roles[role], "%s shares its role", f.Name)
			roles[role] = true
			require.NotContains(t, tmpl.Resources[role].Properties, "ManagedPolicyArns", "%s: managed policies allow too much", f.Name)
		}
	}},
	{"the environment sets exactly the variables that the code reads, and none that permits loopback", func(t *testing.T, tmpl template) {
		eachInVPC(func(f routes.Function) {
			require.NotContains(t, tmpl.functionVariables(t, f.Name), "DELIVER_TO_LOOPBACK", f.Name)
			require.ElementsMatch(t, deployedNames(), slices.Collect(maps.Keys(tmpl.functionVariables(t, f.Name))), f.Name)
		})
	}},
	{"no environment contains a secret", func(t *testing.T, tmpl template) {
		for _, f := range routes.Functions {
			require.NotContains(t, text(t, tmpl.functionVariables(t, f.Name)), "resolve:secretsmanager", f.Name)
		}
	}},
	{"each in the VPC knows the alias that API Gateway invokes", func(t *testing.T, tmpl template) {
		eachInVPC(func(f routes.Function) {
			require.Equal(t, routes.HTTPAlias, tmpl.functionVariables(t, f.Name)["HTTP_ALIAS"], f.Name)
		})
	}},
	{"MAX_SENDS depends on the size", func(t *testing.T, tmpl template) {
		require.Equal(t, map[bool]string{true: "32", false: "4"}[tmpl.large], tmpl.functionVariables(t, "relay-deliveries")["MAX_SENDS"])
	}},
	{"MAX_WAITS depends on the size", func(t *testing.T, tmpl template) {
		eachInVPC(func(f routes.Function) {
			require.Equal(t, map[bool]string{true: "20", false: "5"}[tmpl.large], tmpl.functionVariables(t, f.Name)["MAX_WAITS"], f.Name)
		})
	}},
	{"migrate connects to Postgres directly with the master password", func(t *testing.T, tmpl template) {
		variables := tmpl.functionVariables(t, "migrate")
		require.Equal(t, "false", variables["DB_IAM_AUTH"])
		require.NotEmpty(t, variables["DB_PASSWORD_SECRET"])
		require.NotContains(t, text(t, variables), "Proxy", "a migration's lock belongs to its session")
	}},
	{"all others in the VPC connect through RDS Proxy as their role with an IAM token", func(t *testing.T, tmpl template) {
		eachWithRole(func(f routes.Function) {
			variables := tmpl.functionVariables(t, f.Name)
			require.Equal(t, "true", variables["DB_IAM_AUTH"], f.Name)
			require.Contains(t, text(t, variables["DATABASE_URL"]), "postgres://"+f.Role+"@", f.Name)
			require.Equal(t, "AWS::RDS::DBProxy", tmpl.Resources[target(variables["DATABASE_URL"])].Type, f.Name)
		})
	}},
	{"all others may connect as no other database user", func(t *testing.T, tmpl template) {
		users := map[string]bool{"postgres": true}
		eachWithRole(func(f routes.Function) { users[f.Role] = true })
		require.Len(t, users, 8)
		eachButMigrate(func(f routes.Function) {
			policies := tmpl.functionPolicies(t, f.Name)
			for user := range users {
				require.Equal(t, user == f.Role, strings.Contains(policies, "/"+user+`"`), "%s as %s", f.Name, user)
			}
		})
	}},
	{"all others may read only the secrets of their variables", func(t *testing.T, tmpl template) {
		eachButMigrate(func(f routes.Function) {
			variables, policies := tmpl.functionVariables(t, f.Name), tmpl.functionPolicies(t, f.Name)
			for variable, secret := range map[string]string{"TOKEN_KEYS": "token-keys", "SIGNING_KEY": "signing-key", "SEALING_KEYS": "sealing-keys", "SOURCE_URL_KEY": "source-url-key"} {
				id := tmpl.secrets()[secret]
				require.Equal(t, target(variables[variable]) == id, strings.Contains(policies, `"`+id+`"`), "%s: %s", f.Name, secret)
			}
		})
	}},
	{"all others change after the migration", func(t *testing.T, tmpl template) {
		migrations := slices.Collect(maps.Keys(tmpl.ofType("Custom::Migration")))
		require.Len(t, migrations, 1)
		eachButMigrate(func(f routes.Function) {
			_, r := tmpl.function(t, f.Name)
			require.Contains(t, r.DependsOn, migrations[0], f.Name)
		})
	}},
	{"expire-promises changes after all others", func(t *testing.T, tmpl template) {
		_, r := tmpl.function(t, "expire-promises")
		require.Len(t, slices.DeleteFunc(slices.Clone(r.DependsOn), func(id string) bool {
			return tmpl.Resources[id].Type != "AWS::Lambda::Function"
		}), len(routes.Functions)-2, "all functions except migrate and itself")
	}},
}

func eachButMigrate(check func(routes.Function)) {
	for _, f := range routes.Functions {
		if f.Name != "migrate" {
			check(f)
		}
	}
}

func eachInVPC(check func(routes.Function)) {
	for _, f := range routes.Functions {
		if f.Name != "send-deliveries" {
			check(f)
		}
	}
}

// eachWithRole calls check with each function that connects to Postgres as a role of its own.
func eachWithRole(check func(routes.Function)) {
	for _, f := range routes.Functions {
		if f.Role != "" {
			check(f)
		}
	}
}

// functionPolicies returns the text of the policies of a function's role.
func (tmpl template) functionPolicies(t *testing.T, name string) string {
	t.Helper()
	_, f := tmpl.function(t, name)
	role := target(f.Properties["Role"])
	var all []string
	for _, r := range tmpl.ofType("AWS::IAM::Policy") {
		if target(r.Properties["Roles"]) == role {
			b, err := json.Marshal(r.Properties["PolicyDocument"])
			require.NoError(t, err)
			all = append(all, string(b))
		}
	}
	return strings.Join(all, "\n")
}
