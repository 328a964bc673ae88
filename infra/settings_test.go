package main

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestSynthesis_WrongSettings_FailsAndNamesEach(t *testing.T) {
	t.Parallel()
	_, out, err := synthesize(t, map[string]string{"stage": "Prod", "databse": "aurora"})
	require.Error(t, err)
	require.Contains(t, out, "-c stage=Prod: ")
	require.Contains(t, out, "-c databse=aurora: there is no such setting")
}

func TestRefusedSettings(t *testing.T) {
	t.Parallel()
	for name, values := range map[string][]string{
		"size": {"", "medium", "Large"},
		"zones": {"", "us-east-1a", "us-east-1a,us-east-1a", "us-east-1a,us-west-2a", "us-east-1a, us-east-1b", "use1-az1,use1-az2",
			"us-west-2-lax-1a,us-west-2-lax-1b", "us-east-1a,us-east-1b,"},
		"stage":         {"", "1a", "a_b", strings.Repeat("a", 21)},
		"database":      {"", "mysql", "Aurora"},
		"domain":        {"", "localhost", "https://a.example.com", "A.example.com", "a..example.com"},
		"alarmEmail":    {"", "a", "A <a@example.com>"},
		"retentionDays": {"", "-1", "36501", "1.5"},
		"snapshot":      {"", "1a", "a b"},
		"corsOrigins":   {"", "*", "https://a.example.com/", "a.example.com", "https://a.example.com,"},
		"other":         {"x"},
	} {
		for _, value := range values {
			t.Run(name+"="+value, func(t *testing.T) {
				_, err := readSettings(map[string]any{name: value})
				require.ErrorContains(t, err, "-c "+name+"="+value+": ")
			})
		}
	}
}

func TestReadSettings_CDKContext_IsIgnored(t *testing.T) {
	t.Parallel()
	s, err := readSettings(map[string]any{"retentionDays": 7.0, "@aws-cdk/core:x": "y", "aws:cdk:z": true, "tree": []any{}})
	require.NoError(t, err)
	require.Equal(t, settings{Stage: "dev", RetentionDays: 7}, s)
}

func TestReadSettings_ZonesOfGovCloud_AreAccepted(t *testing.T) {
	t.Parallel()
	s, err := readSettings(map[string]any{"zones": "us-gov-west-1a,us-gov-west-1b"})
	require.NoError(t, err)
	require.Equal(t, []string{"us-gov-west-1a", "us-gov-west-1b"}, s.Zones)
}

// A stage is guarded if its name may be that of a production stage. The size alone does not change that.
func TestStages(t *testing.T) {
	t.Parallel()
	for stage, guarded := range map[string]bool{
		"dev": false, "dev-anna": false, "test-load": false,
		"production": true, "prod": true, "prd": true, "live": true, "main": true, "staging": true, "qa-2": true, "develop": true, "test": true, "devices": true,
	} {
		for size, large := range map[string]bool{"": guarded, "small": false, "large": true} {
			t.Run(stage+", size "+size, func(t *testing.T) {
				given := map[string]any{"stage": stage, "size": size}
				if size == "" {
					delete(given, "size")
				}
				s, err := readSettings(given)
				require.NoError(t, err)
				require.Equal(t, guarded, s.guarded())
				require.Equal(t, large, s.Large)
			})
		}
	}
}
