package main

import (
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/routes"
)

var migrationFacts = []fact{
	{"it runs again if migrate, the database, the snapshot or the secret of a key changes", func(t *testing.T, tmpl template) {
		database := map[string]any{}
		for id := range tmpl.ofType("AWS::RDS::DBInstance") {
			database["Fn::GetAtt"] = []any{id, "DbiResourceId"}
		}
		for id := range tmpl.ofType("AWS::RDS::DBCluster") {
			database["Fn::GetAtt"] = []any{id, "DBClusterResourceId"}
		}
		for _, r := range tmpl.ofType("Custom::Migration") {
			p := r.Properties
			require.ElementsMatch(t, []string{"ServiceToken", "ServiceTimeout", "Version", "Database", "Guarded", "Snapshot", "SigningKey", "SealingKeys"}, slices.Collect(maps.Keys(p)))
			require.Len(t, p["Version"], 64)
			require.Equal(t, database, p["Database"])
			require.Equal(t, strconv.FormatBool(tmpl.guarded), p["Guarded"])
			require.Equal(t, tmpl.settings["snapshot"], p["Snapshot"])
		}
	}},
	{"it runs after migrate can reach Secrets Manager", func(t *testing.T, tmpl template) {
		groups := map[string]string{} // by description
		for id, r := range tmpl.ofType("AWS::EC2::SecurityGroup") {
			groups[r.Properties["GroupDescription"].(string)] = id
		}
		for _, r := range tmpl.ofType("Custom::Migration") {
			open := 0
			for rule, in := range tmpl.ofType("AWS::EC2::SecurityGroupIngress") {
				if target(in.Properties["GroupId"]) == groups["The endpoint of Secrets Manager"] && target(in.Properties["SourceSecurityGroupId"]) == groups["migrate"] {
					open++
					require.Contains(t, r.DependsOn, rule, "migrate reads the master password there")
				}
			}
			require.Equal(t, 1, open)
		}
	}},
	{"RDS Proxy changes after it", func(t *testing.T, tmpl template) {
		for id := range tmpl.ofType("Custom::Migration") {
			for _, kind := range []string{"AWS::RDS::DBProxy", "AWS::RDS::DBProxyTargetGroup"} {
				for _, proxy := range tmpl.ofType(kind) {
					require.Contains(t, proxy.DependsOn, id, "callers use the old database until migrate accepts the new one")
				}
			}
		}
	}},
	{"the proxy's permissions change after it", func(t *testing.T, tmpl template) {
		for id := range tmpl.ofType("Custom::Migration") {
			for _, policy := range tmpl.proxyPolicies(t) {
				require.Contains(t, policy.DependsOn, id, "until then the proxy connects to the old database")
			}
		}
	}},
	{"functions change after the proxy's permissions", func(t *testing.T, tmpl template) {
		for policyID := range tmpl.proxyPolicies(t) {
			eachButMigrate(func(f routes.Function) {
				_, function := tmpl.function(t, f.Name)
				require.Contains(t, function.DependsOn, policyID, "%s needs a user that the proxy may connect as", f.Name)
			})
		}
	}},
}

// proxyPolicies returns the policies that let RDS Proxy connect to Postgres.
func (tmpl template) proxyPolicies(t *testing.T) map[string]resource {
	t.Helper()
	found := map[string]resource{}
	for id, policy := range tmpl.ofType("AWS::IAM::Policy") {
		document := text(t, policy.Properties["PolicyDocument"])
		if strings.Contains(document, "rds-db:connect") && strings.Contains(document, "ResourceId") {
			found[id] = policy
		}
	}
	return found
}
