package build_test

import (
	"crypto/sha256"
	"debug/buildinfo"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
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

// What is deployed: for Lambda, stripped, with nothing of this machine in it, small enough to start fast, and the same
// bytes each time.
func TestFunctionsForLambda(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, build.Functions(t.Context(), dir, build.Lambda))
	sums := map[string]string{}
	for _, f := range routes.Functions {
		path := build.Binary(dir, f.Name)
		sums[f.Name] = sum(t, path)
		stat, err := os.Stat(path)
		require.NoError(t, err)
		require.Equal(t, os.FileMode(0o755), stat.Mode().Perm(), f.Name)
		folder, err := os.ReadDir(filepath.Dir(path))
		require.NoError(t, err)
		require.Len(t, folder, 1)
		t.Logf("%-16s %d bytes", f.Name, stat.Size())
		if f.Name != "migrate" {
			require.LessOrEqual(t, stat.Size(), int64(14_000_000), f.Name)
		}

		info, err := buildinfo.ReadFile(path)
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

	for _, name := range []string{"GOCACHE", "GOMODCACHE"} {
		value, err := exec.Command("go", "env", name).Output()
		require.NoError(t, err)
		t.Setenv(name, strings.TrimSpace(string(value)))
	}
	t.Setenv("HOME", t.TempDir()) // another kept folder: everything is linked again
	t.Setenv("XDG_CACHE_HOME", "")
	again := t.TempDir()
	require.NoError(t, build.Functions(t.Context(), again, build.Lambda))
	for _, f := range routes.Functions {
		require.Equal(t, sums[f.Name], sum(t, build.Binary(again, f.Name)), f.Name)
	}
}
