package build_test

import (
	"crypto/sha256"
	"debug/buildinfo"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/flovyn/promises/infra/build"
	"github.com/flovyn/promises/shared/routes"
)

func sum(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	return fmt.Sprintf("%x", sha256.Sum256(b))
}

// The functions are built once as they are deployed, and once more with an empty cache of binaries.
func TestFunctionsForLambda(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, build.Functions(t.Context(), dir, build.Lambda))

	t.Run("each is executable and alone in its folder", func(t *testing.T) {
		for _, f := range routes.Functions {
			path := build.Binary(dir, f.Name)
			stat, err := os.Stat(path)
			require.NoError(t, err)
			require.Equal(t, os.FileMode(0o755), stat.Mode().Perm(), f.Name)
			folder, err := os.ReadDir(filepath.Dir(path))
			require.NoError(t, err)
			require.Len(t, folder, 1)
		}
	})
	// These two link the language of rules, which costs 7 MB.
	judges := []string{"manage-integrations", "receive-webhook"}
	t.Run("each except migrate has at most 14 MB, or 21 MB with the language of rules, to start fast", func(t *testing.T) {
		for _, f := range routes.Functions {
			stat, err := os.Stat(build.Binary(dir, f.Name))
			require.NoError(t, err)
			t.Logf("%-16s %d bytes", f.Name, stat.Size())
			most := int64(14_000_000)
			if slices.Contains(judges, f.Name) {
				most = 21_000_000
			}
			if f.Name != "migrate" {
				require.LessOrEqual(t, stat.Size(), most, f.Name)
			}
		}
	})
	t.Run("each is for Lambda and contains no paths or commits of this machine", func(t *testing.T) {
		for _, f := range routes.Functions {
			info, err := buildinfo.ReadFile(build.Binary(dir, f.Name))
			require.NoError(t, err)
			settings := map[string]string{}
			for _, s := range info.Settings {
				settings[s.Key] = s.Value
				require.NotContains(t, s.Key, "vcs")
			}
			for key, want := range map[string]string{
				"GOOS": "linux", "GOARCH": "arm64", "CGO_ENABLED": "0", "-tags": "lambda.norpc", "-trimpath": "true",
			} {
				require.Equal(t, want, settings[key], key)
			}
		}
	})
	t.Run("another build gives the same bytes", func(t *testing.T) {
		for _, name := range []string{"GOCACHE", "GOMODCACHE"} {
			value, err := exec.Command("go", "env", name).Output()
			require.NoError(t, err)
			t.Setenv(name, strings.TrimSpace(string(value)))
		}
		t.Setenv("HOME", t.TempDir()) // without kept binaries the go command links every function again
		t.Setenv("XDG_CACHE_HOME", "")
		again := t.TempDir()
		require.NoError(t, build.Functions(t.Context(), again, build.Lambda))
		for _, f := range routes.Functions {
			require.Equal(t, sum(t, build.Binary(dir, f.Name)), sum(t, build.Binary(again, f.Name)), f.Name)
		}
	})
}
