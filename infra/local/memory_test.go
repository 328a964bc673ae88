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

// Even an almost idle function collects garbage soon after its start. Go alone would start a first collection only after half an hour.
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
	collected := regexp.MustCompile(`gc \d+ @\d\d\.\d+s`) // after 10 to 100 s, which is before Go's own interval of two minutes
	require.Eventually(t, func() bool { return collected.MatchString(output.String()) }, 100*time.Second, 100*time.Millisecond,
		"%s", &output)
}
