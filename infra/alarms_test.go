package main

import (
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/routes"
)

var alarmFacts = []fact{
	{"README.md explains each", func(t *testing.T, tmpl template) {
		readme, err := os.ReadFile("README.md")
		require.NoError(t, err)
		for name := range tmpl.alarms() {
			for _, f := range routes.Functions {
				for _, kind := range []string{"-errors", "-slow", "-throttled"} {
					if name == f.Name+kind {
						name = "<function>" + kind
					}
				}
			}
			require.True(t, strings.Contains(string(readme), "| `"+name+"` |"), "README.md does not explain the alarm %s", name)
		}
	}},
	{"each is mailed if alarmEmail is set", func(t *testing.T, tmpl template) {
		for name, r := range tmpl.alarms() {
			require.Equal(t, tmpl.settings["alarmEmail"] != "", r.Properties["AlarmActions"] != nil, name)
		}
	}},
	{"none goes off in a new stage, which has no data", func(t *testing.T, tmpl template) {
		for name, r := range tmpl.alarms() {
			require.NotEqual(t, "breaching", r.Properties["TreatMissingData"], name)
		}
	}},
	{"overdue and relay-stopped are also mailed when their data stops, and no others", func(t *testing.T, tmpl template) {
		require.Contains(t, tmpl.alarms(), "relay-stopped")
		for name, r := range tmpl.alarms() {
			stops := name == "overdue" || name == "relay-stopped"
			require.Equal(t, stops, r.Properties["TreatMissingData"] == "missing", name)
			require.Equal(t, stops && tmpl.settings["alarmEmail"] != "", r.Properties["InsufficientDataActions"] != nil, name)
		}
	}},
	{"holds-expired counts in each function that discards early settlements", func(t *testing.T, tmpl template) {
		metrics := text(t, tmpl.alarms()["holds-expired"].Properties["Metrics"])
		for _, name := range []string{"create-promise", "expire-promises", "reject", "resolve", "resolve-by-key"} {
			require.Contains(t, metrics, `{"Ref":"Functions`+strings.ReplaceAll(name, "-", "")+"Function")
		}
	}},
	{"CloudWatch may publish to the topic and use its key, for this account only", func(t *testing.T, tmpl template) {
		var allowed []any
		for _, kind := range []string{"AWS::SNS::TopicPolicy", "AWS::KMS::Key"} {
			for _, r := range tmpl.ofType(kind) {
				document, _ := r.Properties["PolicyDocument"].(map[string]any)
				if document == nil {
					document = r.Properties["KeyPolicy"].(map[string]any)
				}
				for _, s := range document["Statement"].([]any) {
					if s := s.(map[string]any); text(t, s["Principal"]) == `{"Service":"cloudwatch.amazonaws.com"}` {
						require.Equal(t, "Allow", s["Effect"])
						allowed = append(allowed, s["Action"])
						require.Contains(t, text(t, s["Condition"]), `{"Ref":"AWS::AccountId"}`, "alarms of other accounts")
					}
				}
			}
		}
		if tmpl.settings["alarmEmail"] == "" {
			require.Empty(t, allowed)
		} else {
			require.Equal(t, []any{"sns:Publish", []any{"kms:Decrypt", "kms:GenerateDataKey*"}}, allowed)
		}
	}},
	{"the dashboard shows the route of webhooks", func(t *testing.T, tmpl template) {
		for _, r := range tmpl.ofType("AWS::CloudWatch::Dashboard") {
			require.Contains(t, text(t, r.Properties["DashboardBody"]), `\"Resource\",\"/api/tenants/{slug}/webhooks/{source}\",\"Stage\",\"`)
		}
	}},
	{"the dashboard's name contains the region", func(t *testing.T, tmpl template) {
		for _, r := range tmpl.ofType("AWS::CloudWatch::Dashboard") {
			require.Equal(t, "promises-"+tmpl.stage+"-{Region}", joined(r.Properties["DashboardName"]))
		}
	}},
}

// alarms returns the alarms by name, without the stage.
func (tmpl template) alarms() map[string]resource {
	found := map[string]resource{}
	for _, r := range tmpl.ofType("AWS::CloudWatch::Alarm") {
		found[strings.TrimPrefix(r.Properties["AlarmName"].(string), "promises-"+tmpl.stage+"-")] = r
	}
	return found
}
