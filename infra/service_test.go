package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

var stackFacts = []fact{
	{"its outputs are the URL, the engines' policy, the role of send-deliveries and, with a domain, the target of its CNAME", func(t *testing.T, tmpl template) {
		id, _ := tmpl.function(t, "send-deliveries")
		require.Equal(t, target(tmpl.Resources[id].Properties["Role"]), target(tmpl.Outputs["SenderRoleArn"]))
		require.Contains(t, tmpl.Outputs, "EnginePolicyArn")
		require.Contains(t, tmpl.Outputs, "Url")
		require.Equal(t, tmpl.settings["domain"] != "", tmpl.Outputs["DomainTarget"] != nil)
	}},
	{"a name that is unique in the account contains the region", func(t *testing.T, tmpl template) {
		for id, r := range tmpl.Resources {
			for _, property := range []string{"DashboardName", "GroupName", "InstanceProfileName", "ManagedPolicyName", "RoleName", "UserName"} {
				if name := r.Properties[property]; name != nil && (r.Type == "AWS::CloudWatch::Dashboard" || strings.HasPrefix(r.Type, "AWS::IAM::")) {
					require.Contains(t, joined(name), "{Region}", "%s: an account may have the stage in two regions", id)
				}
			}
		}
	}},
	{"logs are kept for 90 days in a guarded stage, else for seven", func(t *testing.T, tmpl template) {
		for id, r := range tmpl.ofType("AWS::Logs::LogGroup") {
			require.EqualValues(t, map[bool]int{true: 90, false: 7}[tmpl.guarded], r.Properties["RetentionInDays"], id)
			require.Equal(t, tmpl.guarded, r.DeletionPolicy == "Retain", id)
		}
	}},
	{"a guarded stage keeps its secrets", func(t *testing.T, tmpl template) {
		for id, r := range tmpl.ofType("AWS::SecretsManager::Secret") {
			require.Equal(t, tmpl.guarded, r.DeletionPolicy == "Retain", id)
		}
	}},
	{"a guarded stage is protected from deletion", func(t *testing.T, tmpl template) {
		var manifest struct {
			Artifacts map[string]struct {
				Properties struct{ TerminationProtection bool }
			}
		}
		text, err := os.ReadFile(filepath.Join(tmpl.dir, "manifest.json"))
		require.NoError(t, err)
		require.NoError(t, json.Unmarshal(text, &manifest))
		require.Equal(t, tmpl.guarded, manifest.Artifacts["promises-"+tmpl.stage].Properties.TerminationProtection)
	}},
}
