package rule_test

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/shared/webhook/rule"
)

// The guide's table has each ready-made rule, and no other one.
func TestGuide_ReadyMadeRules(t *testing.T) {
	t.Parallel()
	guide, err := os.ReadFile("../README.md")
	require.NoError(t, err)
	_, section, found := strings.Cut(string(guide), "\n## Ready-made rules\n")
	require.True(t, found)
	section, _, _ = strings.Cut(section, "\n## ")
	var names []string
	for _, row := range regexp.MustCompile("(?m)^\\| `([a-z_.]+)` \\|").FindAllStringSubmatch(section, -1) {
		names = append(names, row[1])
	}
	slices.Sort(names)
	require.Equal(t, rule.Ready(), names)
}
