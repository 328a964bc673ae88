package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// A fact is a statement that must be true of every template.
type fact struct {
	name  string
	check func(*testing.T, template)
}

// facts are grouped by subject. Each group stands in the file of its subject.
var facts = []struct {
	subject string
	facts   []fact
}{
	{"synthesis", synthesisFacts},
	{"functions", functionFacts},
	{"signing key", signingKeyFacts},
	{"sending", sendingFacts},
	{"routes", routeFacts},
	{"database", databaseFacts},
	{"migration", migrationFacts},
	{"network", networkFacts},
	{"fleet", fleetFacts},
	{"engine policy", engineFacts},
	{"schedules", scheduleFacts},
	{"alarms", alarmFacts},
	{"stack", stackFacts},
	{"SAM CLI", samFacts},
}

// TestTemplates covers both databases, both sizes, guarded and unguarded stages, all settings and none. Each template is
// synthesised once, and all facts are checked on it. Production is synthesised again, to compare the two.
func TestTemplates(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		settings       map[string]string
		guarded, large bool
	}{
		"dev": {settings: map[string]string{}},
		"dev, large Aurora": {settings: map[string]string{
			"size": "large", "database": "aurora", "retentionDays": "0", "snapshot": "arn:aws:rds:eu-west-1:123456789012:cluster-snapshot:before",
		}, large: true},
		"production": {settings: map[string]string{
			"stage": "production", "domain": "promises.example.com", "alarmEmail": "a@example.com", "corsOrigins": "https://app.example.com",
		}, guarded: true, large: true},
		"prod, small Aurora": {settings: map[string]string{"stage": "prod", "size": "small", "database": "aurora", "retentionDays": "365"}, guarded: true},
		"qa-2, all other settings": {settings: map[string]string{
			"stage": "qa-2", "size": "small", "database": "postgres", "alarmEmail": "a@example.com", "snapshot": "before-the-fire",
			"zones":            "us-east-1b,us-east-1d,us-east-1f",
			"stateMachines":    "arn:aws:states:us-east-1:123456789012:stateMachine:orders,arn:aws:states:us-west-2:123456789012:stateMachine:refunds",
			"durableFunctions": "arn:aws:lambda:us-east-1:123456789012:function:approve", "destinations": strings.Join(sampleDestinations, ","),
		}, guarded: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tmpl := template{settings: c.settings, stage: "dev", guarded: c.guarded, large: c.large}
			if c.settings["stage"] != "" {
				tmpl.stage = c.settings["stage"]
			}
			var err error
			tmpl.dir, tmpl.output, err = synthesize(t, c.settings)
			require.NoError(t, err, tmpl.output)
			b, err := os.ReadFile(filepath.Join(tmpl.dir, "promises-"+tmpl.stage+".template.json"))
			require.NoError(t, err)
			require.NoError(t, json.Unmarshal(b, &tmpl))
			if c.guarded && c.large {
				t.Run("a second synthesis writes the same bytes", tmpl.checkRepeatable)
			}
			for _, group := range facts {
				t.Run(group.subject, func(t *testing.T) {
					for _, f := range group.facts {
						t.Run(f.name, func(t *testing.T) { f.check(t, tmpl) })
					}
				})
			}
		})
	}
}

var synthesisFacts = []fact{
	{"prints no warning", func(t *testing.T, tmpl template) {
		require.NotContains(t, strings.ToLower(tmpl.output), "deprecated")
		require.NotContains(t, tmpl.output, "WARNING")
	}},
	{"the validator reports no violation", func(t *testing.T, tmpl template) {
		for _, r := range tmpl.validationReport(t) {
			require.Empty(t, r.Violations)
		}
	}},
	{"each suppressed violation has a reason", func(t *testing.T, tmpl template) {
		for _, r := range tmpl.validationReport(t) {
			for _, v := range r.SuppressedViolations {
				require.NotEmpty(t, v.Reason, v.RuleName)
			}
		}
	}},
	{"cdk.json sets each feature flag whose default is not the recommended value", checkFeatureFlags},
}

// checkRepeatable fails if a second synthesis writes other bytes. A deployment must change only the resources whose
// definition changed.
func (tmpl template) checkRepeatable(t *testing.T) {
	again, out, err := synthesize(t, tmpl.settings)
	require.NoError(t, err, out)
	first := fileSums(t, tmpl.dir)
	require.NotEmpty(t, first)
	require.Equal(t, first, fileSums(t, again))
}

// fileSums returns the SHA-256 of each file in dir, by its path in dir.
func fileSums(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	require.NoError(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		sum := sha256.Sum256(b)
		all[strings.TrimPrefix(path, dir)] = hex.EncodeToString(sum[:])
		return err
	}))
	return all
}

type pluginReport struct {
	Violations           []map[string]any
	SuppressedViolations []struct{ RuleName, Reason string }
}

// validationReport returns the reports of the validator, of which there is at least one.
func (tmpl template) validationReport(t *testing.T) []pluginReport {
	t.Helper()
	var report struct{ PluginReports []pluginReport }
	b, err := os.ReadFile(filepath.Join(tmpl.dir, "validation-report.json"))
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(b, &report))
	require.NotEmpty(t, report.PluginReports)
	return report.PluginReports
}

// checkFeatureFlags fails if the CDK CLI would warn of a feature flag that cdk.json does not set. An upgrade of the CDK may
// add flags. A flag needs no value if the CDK without it already does what the flag recommends.
func checkFeatureFlags(t *testing.T, tmpl template) {
	var manifest struct {
		Artifacts map[string]struct {
			Type       string
			Properties struct {
				Flags map[string]struct {
					UserValue, RecommendedValue any
					UnconfiguredBehavesLike     map[string]any
				}
			}
		}
	}
	b, err := os.ReadFile(filepath.Join(tmpl.dir, "manifest.json"))
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(b, &manifest))
	seen := 0
	for _, a := range manifest.Artifacts {
		for name, flag := range a.Properties.Flags {
			seen++
			otherwise := flag.UnconfiguredBehavesLike["v2"]
			if otherwise == nil {
				otherwise = false
			}
			require.True(t, flag.UserValue != nil || otherwise == flag.RecommendedValue, "cdk.json: context: set %q, to %v if that changes no template", name, flag.RecommendedValue)
		}
	}
	require.Positive(t, seen)
}
