package main

import (
	"regexp"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/infra/build"
	"github.com/flovyn/promises/infra/local/lambda"
)

// A function that has next to nothing to do does not grow for half an hour until there is enough garbage for Go to collect it.
func TestGarbageIsCollectedSoon(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	require.NoError(t, build.Functions(t.Context(), dir, build.Target{}))
	list := functions(dir, map[string]string{"DATABASE_URL": "postgres://127.0.0.1:1/none"})
	for i := range list {
		list[i].Env = append(slices.Clone(list[i].Env), "GODEBUG=gctrace=1")
	}
	var output buffer
	s := lambda.New(list, lambda.Options{Output: &output})
	t.Cleanup(s.Close)
	_, err := s.Invoke(t.Context(), "authorize", lambda.Request{})
	require.NoError(t, err)
	collected := regexp.MustCompile(`gc \d+ @\d\d\.\d+s`) // after ten seconds, and not after the two minutes of Go's own clock
	require.Eventually(t, func() bool { return collected.MatchString(output.String()) }, 100*time.Second, 100*time.Millisecond,
		"%s", &output)
}
