package client_test

import (
	"os"
	"regexp"
	"testing"

	"github.com/stretchr/testify/require"
)

var goBlock = regexp.MustCompile("(?s)\n```go\n(.*?)```\n")

// The Go code of the guide, and of the engines' section of the API, is that of the examples, which run.
func TestGuide_GoIsOfTheExamples(t *testing.T) {
	t.Parallel()
	var examples string
	for _, name := range []string{"example_test.go", "manage_example_test.go"} {
		text, err := os.ReadFile(name)
		require.NoError(t, err)
		examples += string(text)
	}
	for _, guide := range []string{"README.md", "../../functions/README.md"} {
		text, err := os.ReadFile(guide)
		require.NoError(t, err)
		blocks := goBlock.FindAllStringSubmatch(string(text), -1)
		require.NotEmpty(t, blocks)
		for _, m := range blocks {
			require.Contains(t, examples, m[1], guide)
		}
	}
}
