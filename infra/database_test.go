package main

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

var databaseFacts = []fact{
	{"there is one instance or one cluster", func(t *testing.T, tmpl template) {
		require.Len(t, tmpl.databases(), 1)
	}},
	{"RDS keeps the master password", func(t *testing.T, tmpl template) {
		for _, r := range tmpl.databases() {
			require.Equal(t, true, r.Properties["ManageMasterUserPassword"])
			require.NotContains(t, r.Properties, "MasterUserPassword")
		}
	}},
	{"it is restored from the snapshot that is set, and from none otherwise", func(t *testing.T, tmpl template) {
		for _, r := range tmpl.databases() {
			from := text(t, []any{r.Properties["DBSnapshotIdentifier"], r.Properties["SnapshotIdentifier"]})
			require.Equal(t, tmpl.settings["snapshot"] != "", strings.Contains(from, `"`+tmpl.settings["snapshot"]+`"`), from)
		}
	}},
	{"a snapshot excludes the names of master user and database", func(t *testing.T, tmpl template) {
		for _, r := range tmpl.databases() {
			for _, name := range []string{"MasterUsername", map[string]string{"AWS::RDS::DBInstance": "DBName", "AWS::RDS::DBCluster": "DatabaseName"}[r.Type]} {
				require.Equal(t, tmpl.settings["snapshot"] == "", r.Properties[name] != nil, "the snapshot already contains the %s", name)
			}
		}
	}},
	{"a guarded stage protects it from deletion and replacement", func(t *testing.T, tmpl template) {
		for _, r := range tmpl.databases() {
			require.Equal(t, tmpl.guarded, r.Properties["DeletionProtection"])
			require.Equal(t, tmpl.guarded, r.DeletionPolicy == "Retain")
			require.Equal(t, tmpl.guarded, r.UpdateReplacePolicy == "Retain")
		}
	}},
	{"backups are kept for 35 days in a guarded stage, else for one", func(t *testing.T, tmpl template) {
		for _, r := range tmpl.databases() {
			require.Equal(t, !tmpl.guarded, r.Properties["DeleteAutomatedBackups"])
			require.EqualValues(t, map[bool]int{true: 35, false: 1}[tmpl.guarded], r.Properties["BackupRetentionPeriod"])
		}
	}},
	{"its class, storage and standby depend on the size", func(t *testing.T, tmpl template) {
		for _, r := range tmpl.databases() {
			if r.Type == "AWS::RDS::DBInstance" {
				require.Equal(t, tmpl.large, r.Properties["MultiAZ"])
				require.Equal(t, map[bool]string{true: "db.r7g.large", false: "db.t4g.medium"}[tmpl.large], r.Properties["DBInstanceClass"])
				require.Equal(t, map[bool]string{true: "400", false: "20"}[tmpl.large], r.Properties["AllocatedStorage"])
				require.Equal(t, true, r.Properties["EnablePerformanceInsights"])
			} else {
				scaling := r.Properties["ServerlessV2ScalingConfiguration"].(map[string]any)
				require.EqualValues(t, map[bool]int{true: 32, false: 4}[tmpl.large], scaling["MaxCapacity"])
				require.Len(t, tmpl.ofType("AWS::RDS::DBInstance"), map[bool]int{true: 2, false: 1}[tmpl.large])
			}
		}
	}},
	{"it requires TLS and logs no arguments", func(t *testing.T, tmpl template) {
		parameters := tmpl.ofType("AWS::RDS::DBClusterParameterGroup")
		if len(tmpl.ofType("AWS::RDS::DBCluster")) == 0 {
			parameters = tmpl.ofType("AWS::RDS::DBParameterGroup")
		}
		forced := 0
		for _, r := range parameters {
			if p := r.Properties["Parameters"].(map[string]any); p["rds.force_ssl"] == "1" {
				forced++
				require.Equal(t, "0", p["log_parameter_max_length_on_error"], "arguments contain the callers' values")
			}
		}
		require.Equal(t, 1, forced)
	}},
	{"RDS Proxy knows no password", func(t *testing.T, tmpl template) {
		for _, r := range tmpl.ofType("AWS::RDS::DBProxy") {
			require.NotContains(t, r.Properties, "Auth")
		}
	}},
}

// databases returns the clusters, or the instances if there is no cluster.
func (tmpl template) databases() map[string]resource {
	if clusters := tmpl.ofType("AWS::RDS::DBCluster"); len(clusters) > 0 {
		return clusters
	}
	return tmpl.ofType("AWS::RDS::DBInstance")
}
