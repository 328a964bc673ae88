package localpg

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// fake creates a folder with a postgres and an initdb that only print that version.
func fake(t *testing.T, dir, version string) string {
	t.Helper()
	require.NoError(t, os.MkdirAll(dir, 0o755))
	for _, name := range []string{"postgres", "initdb"} {
		script := fmt.Sprintf("#!/bin/sh\necho '%s (PostgreSQL) %s'\n", name, version)
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(script), 0o755))
	}
	return dir
}

// none is the download of a machine without a network.
func none(context.Context, int, io.Writer) (string, error) { return "", errors.New("no network") }

func TestFind(t *testing.T) {
	t.Parallel()
	root := folder(t)
	at := func(name string) string { return filepath.Join(root, name) }
	for name, version := range map[string]string{
		"path/9": "9.6.24", "path/14": "14.18", "path/16": "16.9 (Debian 16.9-1)",
		"lib/9/bin": "9.6.24", "lib/15/bin": "15.13", "lib/17/bin": "17beta1", "downloaded": "17.5", "old": "14.1",
	} {
		fake(t, at(name), version)
	}
	require.NoError(t, os.MkdirAll(at("link"), 0o755))
	require.NoError(t, os.Symlink(at("path/16/postgres"), at("link/postgres")))
	require.NoError(t, os.MkdirAll(at("lone"), 0o755))
	require.NoError(t, os.WriteFile(at("lone/postgres"), []byte("#!/bin/sh\necho 'postgres (PostgreSQL) 16.1'\n"), 0o755))
	globs := []string{at("lib/*/bin")}
	list := func(names ...string) (s string) {
		for _, name := range names {
			s += at(name) + string(filepath.ListSeparator)
		}
		return s
	}
	downloads := func(dir string) func(context.Context, int, io.Writer) (string, error) {
		return func(context.Context, int, io.Writer) (string, error) { return dir, nil }
	}
	for _, c := range []struct {
		name  string
		src   source
		major int
		want  string // the folder; empty if find fails
		err   string
	}{
		{"PATH comes first", source{search: list("absent", "path/14", "path/16"), globs: globs, download: none}, 0, at("path/16"), ""},
		{"links are followed", source{search: list("link"), globs: globs, download: none}, 0, at("path/16"), ""},
		{"a folder without initdb is skipped", source{search: list("lone"), globs: globs, download: none}, 0, at("lib/17/bin"), ""},
		{"then the highest version of the usual folders", source{search: list("path/14"), globs: globs, download: none}, 0, at("lib/17/bin"), ""},
		{"a cluster needs its own version", source{search: list("path/16"), globs: globs, download: none}, 15, at("lib/15/bin"), ""},
		{"then a download", source{search: list("path/9", "path/14"), download: downloads(at("downloaded"))}, 0, at("downloaded"), ""},
		{"no version", source{search: list("path/14"), download: none}, 0, "",
			"found no Postgres 15 or later: install one (Debian: apt-get install postgresql; macOS: brew install postgresql), " +
				"or set DATABASE_URL; the download failed: no network"},
		{"no version for the cluster", source{search: list("path/16"), download: none}, 15, "",
			"found no Postgres 15, which created the data folder's cluster: install it, or set DATABASE_URL; the download failed: no network"},
		{"an unsuitable download", source{download: downloads(at("old"))}, 0, "", "do not run here"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			owner, err := serverUser()
			require.NoError(t, err)
			b, err := c.src.find(t.Context(), c.major, owner, io.Discard)
			if c.err != "" {
				require.ErrorContains(t, err, c.err)
				return
			}
			require.NoError(t, err)
			want, err := filepath.EvalSymlinks(c.want)
			require.NoError(t, err)
			require.Equal(t, want, b.dir)
		})
	}
}

// If another process takes the port, the server starts on another one.
func TestPortTaken(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = taken.Close() })
	src, calls := machine(), 0
	src.port = func() (int, error) {
		if calls++; calls == 1 {
			return taken.Addr().(*net.TCPAddr).Port, nil
		}
		return freePort()
	}
	s, err := start(t.Context(), Options{}, src)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Stop()) })
	require.Equal(t, 1, query[int](t, s, "SELECT 1"))
	require.Equal(t, 2, calls)
}
