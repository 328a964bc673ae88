package webhook

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// guideRow returns the cells of the row of the guide's table of presets that begins with a name.
func guideRow(t *testing.T, guide, name string) []string {
	t.Helper()
	_, section, found := strings.Cut(guide, "\n## Presets\n")
	require.True(t, found)
	section, _, _ = strings.Cut(section, "\n## ")
	row := regexp.MustCompile("(?m)^\\| `" + name + "` \\| (.*) \\|$").FindStringSubmatch(section)
	require.NotNil(t, row, "the table has no row")
	return strings.Split(row[1], " | ")
}

// The guide has a row for each preset, and the row says what the preset does.
func TestGuide_Presets(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("README.md")
	require.NoError(t, err)
	guide := string(text)
	for name, s := range presets {
		t.Run(name, func(t *testing.T) {
			row := guideRow(t, guide, name)
			require.Len(t, row, 5)
			signed, tolerance, event, secret, prefix := row[0], row[1], row[2], row[3], row[4]
			for field, word := range map[string]string{"{body}": "body", "{form}": "form", "{url}": "URL", "{timestamp}": "time", "{id}": "id, "} {
				require.Equal(t, strings.Contains(s.signed, field), strings.Contains(signed, word), "%s: %s", field, signed)
			}
			for algorithm, word := range map[algorithm]string{hmacSHA1: "HMAC-SHA-1,", hmacSHA256: "HMAC-SHA-256", ecdsaP256: "ECDSA"} {
				require.Equal(t, s.algorithm == algorithm, strings.Contains(signed+",", word), "%s: %s", algorithm, signed)
			}
			require.Equal(t, s.tolerance == fiveMinutes, strings.HasPrefix(tolerance, "5 min"), tolerance)
			require.Equal(t, s.tolerance == 0, tolerance == "none", tolerance)
			require.Equal(t, s.preset.EventID == "" && !strings.Contains(s.signed, "{id}"), event == "the digest", event)
			if member := regexp.MustCompile(`(?:body|item)\.(\w+)`).FindStringSubmatch(s.preset.EventID); member != nil {
				require.Contains(t, event, "`"+member[1]+"`")
			}
			require.Equal(t, s.preset.Generates, strings.HasPrefix(secret, "made here"), secret)
			require.Equal(t, "`"+s.preset.KeyPrefix+"`", prefix)
		})
	}
}
